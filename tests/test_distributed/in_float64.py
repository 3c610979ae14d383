"""Run code, or a script, with parameters, images, anchors and boxes in float64.

Processes, and other numbers of threads, sum in another order. In float32 that decides
on which side of a ReLU, or of a maximum, a near tie falls, and gradients then differ by
percents: what two processes leave can be compared with what one leaves in float64.

``python in_float64.py SCRIPT ARGUMENTS`` runs a script so.
"""

import runpy
import sys
from contextlib import contextmanager
from typing import Iterator

import torch


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Let tensors be made in a type where the code names none."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


if __name__ == '__main__':
    sys.argv.pop(0)
    with default_dtype(torch.float64):
        runpy.run_path(sys.argv[0], run_name='__main__')
