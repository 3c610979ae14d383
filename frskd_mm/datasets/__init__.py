"""Data sets; each has the interface of one host library and needs it."""

from functools import partial
from typing import Any

from frskd_mm.registry import DATASETS
from frskd_mm.utils.environment import has_host, missing_host

from .pairs import PairDataset, collate_pairs

__all__ = ['PairDataset', 'collate_pairs']


def _raise_missing(host: str, name: str, **kwargs: Any) -> None:
    raise missing_host(host, f'frskd_mm.{name}')


def _register_missing(host: str, *names: str) -> None:
    """Let the build of a data set without its host say what to install."""
    for name in names:
        DATASETS.register_module(name=name, module=partial(_raise_missing, host, name))


if has_host('mmpretrain'):
    from .cifar100 import CIFAR100
    from .digits import Digits

    __all__ += ['CIFAR100', 'Digits']
else:
    _register_missing('mmpretrain', 'CIFAR100', 'Digits')

if has_host('mmseg'):
    from .camvid import CamVid

    __all__ += ['CamVid']
else:
    _register_missing('mmseg', 'CamVid')
