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
    this context. So a student gets the initial weights, and training the data
    order and augmentations, that it would have without a distiller.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
