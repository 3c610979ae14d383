"""MGD: generate the teacher's map from a masked one of the student."""

from typing import Any, List, Optional

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .pkd_loss import align


@MODELS.register_module()
class MGDLoss(FeatureLoss):
    r"""Squared error of a map that is generated from a part of the student's.

    At every level a share of the student's positions is set to 0 at random, for
    all channels alike, and G, two 3x3 convolutions with a ReLU between them,
    generates the teacher's map from the rest:

    .. math::
        L_i = \frac{1}{N} \sum_{n,c,h,w} (G(M \cdot r(F_i)) - T_i)^2

    summed over levels; each position has its weight if there are any. The value
    grows with d_i * H * W. r is a 1x1 convolution where student and teacher
    differ in channels. The teacher's maps are detached, and all is computed in
    fp32. The masks are drawn from torch's generator, from which a dropout of the
    student draws as well.

    Paper: Masked Generative Distillation, ECCV 2022,
    https://arxiv.org/abs/2205.01529
    Source: yzd-v/MGD@2c9da0b, det/mmdet/distillation/losses/mgd.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        loss_weight (float): Beta, alpha in the source. Defaults to 2e-5, the
            source's for one-stage detectors; 7e-5 for classifiers.
        mask_ratio (float): Share of the positions set to 0, lambda in the
            source. Defaults to 0.65.
        **kwargs: Other arguments of :class:`FeatureLoss`.

    Raises:
        ValueError: If the share is not within [0, 1].
    """

    loss_name = 'loss_mgd'

    @check_arguments(loss_weight=NOT_NEGATIVE, mask_ratio=FRACTION)
    def __init__(
        self,
        in_channels: List[int],
        out_channels: List[int],
        loss_weight: float = 2e-5,
        mask_ratio: float = 0.65,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, **kwargs)
        self.mask_ratio = mask_ratio
        self.adapters = align(in_channels, out_channels)
        self.generators = ModuleList(
            nn.Sequential(
                nn.Conv2d(d, d, 3, padding=1), nn.ReLU(), nn.Conv2d(d, d, 3, padding=1)
            )
            for d in out_channels
        )

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the maps of one level, see :class:`FeatureLoss`."""
        adapted = in_own_precision(self.adapters[level], student)
        size = (len(adapted), 1, *adapted.shape[2:])
        kept = torch.rand(size, device=adapted.device) <= 1.0 - self.mask_ratio
        generated = in_own_precision(self.generators[level], adapted * kept)
        squares = (generated - at_least_fp32(teacher)).square()
        if weight is not None:
            squares = squares * weight[:, None]
        return squares.sum() / len(squares)
