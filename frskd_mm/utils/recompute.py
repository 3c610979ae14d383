"""Recompute a part of the forward pass during the backward pass."""

from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any, Callable, Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recompute(modules: Sequence[nn.Module], function: Callable, *args: Any) -> Any:
    """Call a function whose intermediate maps are not kept.

    They are computed a second time when the gradient is. Running statistics
    move in the first pass only, so that results do not depend on this.

    Args:
        modules: Hold the norms that the function runs, and no others.
        function: What to call; its parameters may be any module's.
        *args: Its arguments.

    Returns:
        Any: What the function returns.
    """
    return checkpoint(
        function,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), keep_statistics(modules)),
    )


@contextmanager
def keep_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Leave the running statistics of all norms in the modules as they are."""
    before = []
    for norm in chain.from_iterable(module.modules() for module in modules):
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
