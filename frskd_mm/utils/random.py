"""Random-number isolation, so that methods can be compared on equal draws."""

import random
from contextlib import contextmanager
from typing import Iterator

import numpy as np
import torch


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Run a block and give back the random generators' states afterwards.

    Everything random in a distiller's construction and initialisation runs in
    this context. So a student starts with the weights that it would have without a
    distiller. Draws in training are not isolated: a dropout in the self-teacher's
    twin moves the generator that the student's own dropout draws from.

    Of the GPUs, only the current one is seen to, and only if it is in use already.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    in_use = torch.cuda.is_initialized()
    with torch.random.fork_rng([torch.cuda.current_device()] if in_use else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
