"""Distillation losses."""

from .attention_transfer_loss import AttentionTransferLoss
from .soft_label_loss import SoftLabelLoss

__all__ = ['AttentionTransferLoss', 'SoftLabelLoss']
