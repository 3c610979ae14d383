"""Students' parts, self-teachers, losses and distillers."""

from .backbones import PassThrough, WideResNet
from .distilled import Distilled, distill
from .distillers import FRSKD, BaseDistiller
from .losses import (
    AttentionTransferLoss,
    DetAttentionTransferLoss,
    DetSoftLabelLoss,
    SoftLabelLoss,
)
from .necks import BiFPN, BiFPNc
from .self_teacher import SelfTeacher
from .weight_schedule import WeightSchedule

__all__ = [
    'AttentionTransferLoss',
    'BaseDistiller',
    'BiFPN',
    'BiFPNc',
    'DetAttentionTransferLoss',
    'DetSoftLabelLoss',
    'Distilled',
    'FRSKD',
    'PassThrough',
    'SelfTeacher',
    'SoftLabelLoss',
    'WeightSchedule',
    'WideResNet',
    'distill',
]
