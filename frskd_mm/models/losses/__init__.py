"""Distillation losses."""

from .attention_transfer_loss import AttentionTransferLoss
from .channel_soft_label_loss import ChannelSoftLabelLoss
from .cwd_loss import CWDLoss
from .det_attention_transfer_loss import DetAttentionTransferLoss
from .det_soft_label_loss import DetSoftLabelLoss
from .feature_loss import FeatureLoss
from .fitnet_loss import FitNetLoss
from .lgd_loss import LGDLoss
from .mgd_loss import MGDLoss
from .overhaul_loss import OverhaulLoss
from .pixel_soft_label_loss import PixelSoftLabelLoss
from .pkd_loss import PKDLoss
from .soft_label_loss import SoftLabelLoss
from .soft_labels import SoftLabels
from .uskd_loss import USKDLoss
from .zipf_loss import ZipfLoss

__all__ = [
    'AttentionTransferLoss',
    'CWDLoss',
    'ChannelSoftLabelLoss',
    'DetAttentionTransferLoss',
    'DetSoftLabelLoss',
    'FeatureLoss',
    'FitNetLoss',
    'LGDLoss',
    'MGDLoss',
    'OverhaulLoss',
    'PKDLoss',
    'PixelSoftLabelLoss',
    'SoftLabelLoss',
    'SoftLabels',
    'USKDLoss',
    'ZipfLoss',
]
