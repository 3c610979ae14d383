"""Data sets; each has the interface of one host library and needs it."""

from functools import partial
from typing import Any

from frskd_mm.registry import DATASETS
from frskd_mm.utils.environment import has_host, missing_host

from .label_noise import LabelNoise
from .pairs import PairDataset, collate_pairs

__all__ = ['LabelNoise', 'PairDataset', 'collate_pairs']


def _raise_missing(host: str, name: str, **kwargs: Any) -> None:
    raise missing_host(host, f'frskd_mm.{name}')


def _register_missing(host: str, *names: str) -> None:
    """Let the build of a data set without its host say what to install."""
    for name in names:
        DATASETS.register_module(name=name, module=partial(_raise_missing, host, name))


if has_host('mmpretrain'):
    from .cifar100 import CIFAR100
    from .digit_scenes_cls import DigitScenesCls
    from .digits import Digits

    __all__ += ['CIFAR100', 'DigitScenesCls', 'Digits']
else:
    _register_missing('mmpretrain', 'CIFAR100', 'DigitScenesCls', 'Digits')

if has_host('mmseg'):
    from .camvid import CamVid
    from .digit_scenes_seg import DigitScenesSeg

    __all__ += ['CamVid', 'DigitScenesSeg']
else:
    _register_missing('mmseg', 'CamVid', 'DigitScenesSeg')

if has_host('mmdet'):
    from .digit_scenes_det import DigitScenesDet

    __all__ += ['DigitScenesDet']
else:
    _register_missing('mmdet', 'DigitScenesDet')
