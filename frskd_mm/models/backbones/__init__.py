"""Backbones that the host libraries lack."""

from .pass_through import PassThrough
from .wide_resnet import WideResNet

__all__ = ['PassThrough', 'WideResNet']
