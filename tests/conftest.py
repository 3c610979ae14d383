"""Fixtures shared by the tests."""

import logging
import os
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from small_runs import forget_the_last_run

import frskd_mm  # noqa: F401  (config paths such as mmseg::... need it)

REPO = Path(__file__).resolve().parents[1]
DEVICES = ['cpu'] + ['cuda'] * torch.cuda.is_available()
pytest.register_assert_rewrite('contracts')


@pytest.fixture(autouse=True)
def _fresh_mmengine_state():
    """Seed torch and forget MMEngine's global instances between tests."""
    torch.manual_seed(0)
    MMLogger.get_instance('mmengine', log_level=logging.WARNING)
    yield
    forget_the_last_run()


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Where a component is tested: on the CPU, and on the GPU of a machine with one."""
    return torch.device(request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=['float32', 'float64'])
def dtype(request) -> torch.dtype:
    """In which precision a component is tested."""
    return request.param


@pytest.fixture
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder with the real data sets; tests that need it skip without it."""
    root = Path(os.environ.get('FRSKD_DATA', REPO / 'data'))
    if not root.is_dir():
        pytest.skip(f'no data at {root}: set FRSKD_DATA to the folder with the data')
    return root
