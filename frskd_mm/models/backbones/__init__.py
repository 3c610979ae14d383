"""Backbones that the host libraries lack."""

from .efficientnet import efficientnet_features
from .efficientnet_lite import EfficientNetLite
from .pass_through import PassThrough
from .wide_resnet import WideResNet

__all__ = ['EfficientNetLite', 'PassThrough', 'WideResNet', 'efficientnet_features']
