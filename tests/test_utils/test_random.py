"""Isolation of the random generators."""

import random

import numpy as np
import pytest
import torch

from frskd_mm.utils.random import isolated_rng

DRAWS = {
    'python': random.random,
    'numpy': lambda: float(np.random.rand()),
    'torch': lambda: torch.rand(()).item(),
}


def seed():
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)


@pytest.mark.parametrize('generator', DRAWS)
def test_draws_inside_do_not_move_the_generators(generator):
    draw = DRAWS[generator]
    seed()
    expected = [draw() for _ in range(2)]
    seed()
    first = draw()
    with isolated_rng():
        inside = [draw() for _ in range(3)]
    assert [first, draw()] == expected
    assert len(set(inside)) == 3


def seed_and_fail():
    with isolated_rng():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        raise KeyError


@pytest.mark.parametrize('generator', DRAWS)
def test_seeding_inside_is_undone_even_after_an_error(generator):
    draw = DRAWS[generator]
    seed()
    expected = draw()
    seed()
    with pytest.raises(KeyError):
        seed_and_fail()
    assert draw() == expected
