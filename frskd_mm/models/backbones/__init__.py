"""Backbones that the host libraries lack."""

from .efficientnet import efficientnet_features
from .pass_through import PassThrough
from .wide_resnet import WideResNet

__all__ = ['PassThrough', 'WideResNet', 'efficientnet_features']
