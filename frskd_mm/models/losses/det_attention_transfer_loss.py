"""Attention transfer for detectors, where foreground may weigh more."""

from typing import Optional, Sequence

import torch
from torch import Tensor

from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import full_precision

from .attention_transfer_loss import (
    AttentionTransferLoss,
    attention_map,
    check_levels,
)
from .foreground import check_foreground
from .weighted_mean import weighted_mean


@MODELS.register_module()
class DetAttentionTransferLoss(AttentionTransferLoss):
    """Attention transfer with an optional weight on every position.

    With ``foreground=None`` this is :class:`AttentionTransferLoss`. Otherwise
    a position's squared difference is multiplied by its weight w: the
    ``'mean'`` reduction becomes sum(w d^2) / sum(w) of a level, ``'sum'`` the
    sum of w d^2 over H * W averaged over N, and ``'norm'`` the square root
    of that sum. The attention maps themselves are those of whole images.

    An extension of this project; the method's authors published no detector.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/AT.py (the
    plain form)

    Args:
        loss_weight (float): Beta in the paper. Defaults to 1.0, which suits
            the 'sum' reduction.
        reduction (str): 'mean', 'sum' or 'norm'. Defaults to 'sum', since a
            detector's images and levels have all sizes.
        foreground (str, optional): None; 'confidence', the square of the
            self-teacher's confidence at that position; or 'boxes', 1 within
            ground-truth boxes and 0 outside. Defaults to None.

    Raises:
        ValueError: If the reduction or the weighting is unknown.
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        reduction: str = 'sum',
        foreground: Optional[str] = None,
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction)
        check_foreground(foreground)
        self.foreground = foreground

    def forward(
        self,
        student_feats: Sequence[Tensor],
        teacher_feats: Sequence[Tensor],
        weights: Optional[Sequence[Tensor]] = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student_feats: Per level (N, C_s, H, W), fine to coarse.
            teacher_feats: Per level (N, C_t, H, W); detached here.
            weights: Per level (N, H, W), not negative. All 1 by default.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If the levels differ in number or in N, H, W.
        """
        if weights is None:
            return super().forward(student_feats, teacher_feats)
        check_levels(student_feats, teacher_feats)
        with full_precision(student_feats[0]):
            losses = [
                self._weighted_level_loss(student, teacher.detach(), weight.flatten(1))
                for student, teacher, weight in zip(
                    student_feats, teacher_feats, weights
                )
            ]
            return self.loss_weight * torch.stack(losses).sum()

    def _weighted_level_loss(
        self, student: Tensor, teacher: Tensor, weight: Tensor
    ) -> Tensor:
        difference = attention_map(student) - attention_map(teacher)
        if self.reduction == 'mean':
            return weighted_mean(difference.square(), weight)
        if self.reduction == 'sum':
            return (weight * difference.square()).sum(dim=1).mean()
        return torch.linalg.vector_norm(weight.sqrt() * difference, dim=1).mean()
