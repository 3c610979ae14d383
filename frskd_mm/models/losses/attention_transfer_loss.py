"""Attention transfer: where the student looks follows the self-teacher."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments, one_of

from .feature_loss import FeatureLoss
from .weighted_mean import weighted_mean


def attention_map(feat: Tensor) -> Tensor:
    """Return where a feature map is strong.

    The sum of squared channels, flattened and L2-normalised, so scaling a
    map leaves its attention unchanged. A constant-zero map gives zeros.

    Example:
        >>> attention_map(torch.tensor([[[[0.0, 1.0]], [[2.0, 0.0]]]]))
        tensor([[0.9701, 0.2425]])

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
class AttentionTransferLoss(FeatureLoss):
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

    With weights w of the positions, 'mean' becomes sum(w d^2) / sum(w) of a
    level, 'sum' the sum of w d^2 over H * W averaged over N, and 'norm' the
    square root of that sum. The attention maps themselves are those of whole
    images.

    The teacher's maps are detached, and all is computed in fp32 (squares
    overflow fp16).

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/AT.py

    Args:
        loss_weight (float): Beta in the paper. Defaults to 100.0.
        reduction (str): 'mean', 'sum' or 'norm'. Defaults to 'mean'.
        **kwargs: Other arguments of :class:`FeatureLoss`.

    Raises:
        ValueError: If the reduction is unknown.
    """

    loss_name = 'loss_at'

    @check_arguments(loss_weight=NOT_NEGATIVE, reduction=one_of('mean', 'sum', 'norm'))
    def __init__(
        self, loss_weight: float = 100.0, reduction: str = 'mean', **kwargs: Any
    ) -> None:
        super().__init__(loss_weight, **kwargs)
        self.reduction = reduction

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the attention of one level, see :class:`FeatureLoss`."""
        difference = attention_map(student) - attention_map(teacher)
        if weight is not None:
            weight = weight.flatten(1)
        if self.reduction == 'mean':
            squares = difference.square()
            return squares.mean() if weight is None else weighted_mean(squares, weight)
        if weight is not None:
            difference = weight.sqrt() * difference
        if self.reduction == 'sum':
            return difference.square().sum(dim=1).mean()
        # vector_norm has the subgradient 0 where the maps are equal.
        return torch.linalg.vector_norm(difference, dim=1).mean()
