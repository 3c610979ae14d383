"""What ``torch.compile`` needs to know."""

from typing import Any

import torch


def is_compiling() -> bool:
    """Whether ``torch.compile`` is tracing the caller.

    PyTorch releases that cannot tell are treated as if it were not. The code that
    is not made for tracing then splits the graph, which costs time only.
    """
    known = getattr(torch.compiler, 'is_compiling', None)
    return known is not None and known()


def require_compile(settings: Any) -> None:
    """Refuse ``compile`` of a config where PyTorch cannot trace the models.

    Args:
        settings: The config's ``compile``.

    Raises:
        ValueError: If it is asked for, and PyTorch is older than 2.3.
    """
    if settings and not hasattr(torch.compiler, 'is_compiling'):
        raise ValueError(
            f'torch.compile of PyTorch {torch.__version__} cannot trace a model with '
            'a self-teacher; that of 2.10 can. Set compile = False in the config.'
        )
