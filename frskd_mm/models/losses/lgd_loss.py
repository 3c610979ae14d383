"""The feature loss of label-guided self-distillation."""

from typing import Any, List, Optional, Sequence

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .weighted_mean import over_processes


@MODELS.register_module()
class LGDLoss(FeatureLoss):
    r"""Mean squared error between adapted and teacher maps, both normalised.

    .. math::
        L = \frac{1}{\sum_i |T_i|} \sum_i \sum (IN(r(F_i)) - IN(T_i))^2

    r is an adapter of three 3x3 convolutions with ReLUs between them, and IN
    gives each image's channels mean 0 and variance 1. The mean is over all
    places of all levels together, so fine levels count more. With weights of
    the positions it is weighted. The adapter is the same for all levels where
    all have as many channels, as in the source, else one a level. The teacher's
    maps are detached, and all is computed in fp32.

    Paper: LGD: Label-guided Self-distillation for Object Detection, AAAI 2022,
    https://arxiv.org/abs/2109.11496
    Source: megvii-research/LGD@e03357d, models/base_distillator.py and
    models/adapters/sequential_convs.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        loss_weight (float): Beta. Defaults to 1.0.
        **kwargs: Other arguments of :class:`FeatureLoss`.
    """

    loss_name = 'loss_lgd'

    @check_arguments(loss_weight=NOT_NEGATIVE)
    def __init__(
        self,
        in_channels: List[int],
        out_channels: List[int],
        loss_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, **kwargs)
        pairs = list(zip(in_channels, out_channels))
        if len(set(pairs)) == 1:
            pairs = pairs[:1]
        self.adapters = ModuleList(
            nn.Sequential(
                nn.Conv2d(c, d, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(d, d, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(d, d, 3, padding=1),
            )
            for c, d in pairs
        )

    def divisor(
        self, teacher_feats: Sequence[Tensor], weights: Sequence[Optional[Tensor]]
    ) -> Tensor:
        """Return the number of values on all levels, weighted.

        As in :func:`weighted_mean`, it is averaged over the processes of a
        distributed run.
        """
        counts = [
            feat.new_tensor(float(feat.numel()), dtype=torch.float32)
            if weight is None
            else feat.shape[1] * weight.sum()
            for feat, weight in zip(teacher_feats, weights)
        ]
        return over_processes(torch.stack(counts).sum()).clamp(min=1e-6)

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Sum up the squared differences of one level."""
        adapt = self.adapters[level if len(self.adapters) > 1 else 0]
        ours, theirs = (
            _instance_norm(feat)
            for feat in (in_own_precision(adapt, student), at_least_fp32(teacher))
        )
        squares = (ours - theirs).square()
        return squares.sum() if weight is None else (squares * weight[:, None]).sum()


def _instance_norm(feat: Tensor) -> Tensor:
    """Give every image's channels mean 0 and variance 1; a map of one place is 0."""
    centred = feat - feat.mean(dim=(2, 3), keepdim=True)
    variance = centred.square().mean(dim=(2, 3), keepdim=True)
    return centred * torch.rsqrt(variance + 1e-5)
