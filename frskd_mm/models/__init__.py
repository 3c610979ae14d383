"""Students' parts, self-teachers, losses and distillers."""

from .backbones import EfficientNetLite, PassThrough, WideResNet
from .distilled import Distilled, distill
from .distillers import FRSKD, BaseDistiller
from .label_guidance import LabelGuidance
from .lgd import LGDGuidance, LGDRefinement
from .losses import (
    AttentionTransferLoss,
    DetAttentionTransferLoss,
    DetSoftLabelLoss,
    PixelSoftLabelLoss,
    SoftLabelLoss,
)
from .necks import BiFPN, BiFPNc, BiFPNSeg, FPNBiFPNSeg
from .self_teacher import SelfTeacher
from .weight_schedule import WeightSchedule

__all__ = [
    'AttentionTransferLoss',
    'BaseDistiller',
    'BiFPN',
    'BiFPNSeg',
    'BiFPNc',
    'DetAttentionTransferLoss',
    'DetSoftLabelLoss',
    'Distilled',
    'EfficientNetLite',
    'FPNBiFPNSeg',
    'FRSKD',
    'LGDGuidance',
    'LGDRefinement',
    'LabelGuidance',
    'PassThrough',
    'PixelSoftLabelLoss',
    'SelfTeacher',
    'SoftLabelLoss',
    'WeightSchedule',
    'WideResNet',
    'distill',
]
