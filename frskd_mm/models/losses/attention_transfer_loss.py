"""Attention transfer: where the student looks follows the self-teacher."""

from typing import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import full_precision


def attention_map(feat: Tensor) -> Tensor:
    """Return where a feature map is strong.

    The sum of squared channels, flattened and L2-normalised, so scaling a
    map leaves its attention unchanged. A constant-zero map gives zeros.

    Args:
        feat: (N, C, H, W).

    Returns:
        Tensor: (N, H * W), fp32 or wider.
    """
    # One pass over the map, and one for its gradient. A sum instead of the mean,
    # since the norm divides the number of channels away.
    dtype = torch.promote_types(feat.dtype, torch.float32)
    norm = torch.linalg.vector_norm(feat, dim=1, dtype=dtype)
    return F.normalize(norm.square().flatten(1))


@MODELS.register_module()
class AttentionTransferLoss(nn.Module):
    """Pull student attention maps towards the self-teacher's.

    With a the attention map of a level, i.e. the mean over squared channels,
    L2-normalised over H * W, the loss sums over levels

    * ``'mean'``: the mean over N * H * W of (a_s - a_t)^2, the authors' code
      and the default. The maps have unit length, so it shrinks as
      1 / (H * W): retune ``loss_weight`` when the resolution changes;
    * ``'sum'``: the sum over H * W, averaged over N. It does not depend on
      the map's size, and equals ``'mean'`` times H * W;
    * ``'norm'``: the L2 norm of a_s - a_t over H * W, averaged over N, as the
      paper writes it. Its gradient is 0 where the maps are equal.

    The teacher's maps are detached here, and all is computed in fp32 (squares
    overflow fp16).

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/AT.py

    Args:
        loss_weight (float): Beta in the paper. Defaults to 100.0.
        reduction (str): 'mean', 'sum' or 'norm'. Defaults to 'mean'.

    Raises:
        ValueError: If the reduction is unknown.
    """

    loss_name = 'loss_at'
    reductions = ('mean', 'sum', 'norm')

    def __init__(self, loss_weight: float = 100.0, reduction: str = 'mean') -> None:
        super().__init__()
        if reduction not in self.reductions:
            raise ValueError(
                f'reduction must be one of {self.reductions}, got {reduction!r}.'
            )
        self.loss_weight = loss_weight
        self.reduction = reduction

    def forward(
        self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student_feats: Per level (N, C_s, H, W), fine to coarse.
            teacher_feats: Per level (N, C_t, H, W); detached here.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If the levels differ in number or in N, H, W.
        """
        check_levels(student_feats, teacher_feats)
        with full_precision(student_feats[0]):
            losses = [
                self._level_loss(student, teacher.detach())
                for student, teacher in zip(student_feats, teacher_feats)
            ]
            return self.loss_weight * torch.stack(losses).sum()

    def _level_loss(self, student: Tensor, teacher: Tensor) -> Tensor:
        difference = attention_map(student) - attention_map(teacher)
        if self.reduction == 'mean':
            return difference.square().mean()
        if self.reduction == 'sum':
            return difference.square().sum(dim=1).mean()
        # vector_norm has the subgradient 0 where the maps are equal.
        return torch.linalg.vector_norm(difference, dim=1).mean()


def check_levels(
    student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]
) -> None:
    """Require as many student as teacher maps, equal in N, H and W.

    Raises:
        ValueError: If the levels differ in number or in N, H, W.
    """
    if len(student_feats) != len(teacher_feats):
        raise ValueError(
            f'The student gave {len(student_feats)} feature maps and the '
            f'self-teacher {len(teacher_feats)}; they must pair up.'
        )
    for level, (student, teacher) in enumerate(zip(student_feats, teacher_feats)):
        if (student.shape[0], *student.shape[2:]) != (
            teacher.shape[0],
            *teacher.shape[2:],
        ):
            raise ValueError(
                f'Level {level}: student map {tuple(student.shape)} and '
                f'self-teacher map {tuple(teacher.shape)} differ in N, H or W.'
            )
