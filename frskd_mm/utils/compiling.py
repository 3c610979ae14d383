"""What ``torch.compile`` needs to know."""

import torch


def is_compiling() -> bool:
    """Whether ``torch.compile`` is tracing the caller.

    PyTorch releases that cannot tell are treated as if it were not. The code that
    is not made for tracing then splits the graph, which costs time only.
    """
    known = getattr(torch.compiler, 'is_compiling', None)
    return known is not None and known()
