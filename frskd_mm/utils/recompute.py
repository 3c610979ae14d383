"""Recompute a part of the forward pass during the backward pass."""

from contextlib import contextmanager, nullcontext
from typing import Any, Callable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute(module: nn.Module, function: Callable, *args: Any) -> Any:
    """Call a function whose intermediate maps are not kept.

    They are computed a second time when the gradient is. Running statistics
    move in the first pass only, so that results do not depend on this.

    Args:
        module: Holds the norms that the function runs.
        function: What to call; its parameters may be any module's.
        *args: Its arguments.

    Returns:
        Any: What the function returns.
    """
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), keep_statistics(module)),
    )


@contextmanager
def keep_statistics(module: nn.Module) -> Iterator[None]:
    """Leave the running statistics of all norms as they are."""
    before = []
    for norm in module.modules():
        if isinstance(norm, _NormBase) and norm.num_batches_tracked is not None:
            counter = norm.num_batches_tracked
            before.append((norm, norm.momentum, counter, counter.clone()))
            norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, counter, count in before:
            norm.momentum = momentum
            counter.copy_(count)
