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


def test_no_gpu_is_taken_that_is_not_in_use(monkeypatch):
    """PyTorch initialises all that it counts, and warns, unless it is told which."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    in_use = torch.cuda.is_initialized()
    with isolated_rng():
        pass
    assert torch.cuda.is_initialized() == in_use


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_draws_inside_do_not_move_the_generator_of_the_gpu():
    torch.cuda.manual_seed(5)
    expected = torch.rand((), device='cuda')
    torch.cuda.manual_seed(5)
    with isolated_rng():
        torch.rand((), device='cuda')
    assert torch.rand((), device='cuda') == expected
