"""FitNet: adapted student features follow the teacher's."""

from typing import Any, List, Optional, Sequence, Union

import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.models.necks.layers import build_norm
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .weighted_mean import weighted_mean

#: He initialisation (normal, fan out) of the adapters, as in the sources.
ADAPTER_INIT: List[dict] = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Constant', layer='_BatchNorm', val=1),
]


@MODELS.register_module()
class FitNetLoss(FeatureLoss):
    """Mean squared error between adapted student maps and teacher maps.

    At every level r is a 1x1 convolution without bias, BN and ReLU from c_i to
    d_i channels, and the loss sums over levels the mean over N * d_i * H * W of
    (r(F_i) - T_i)^2; with weights of the positions, the weighted mean over N * H
    * W of the mean over d_i. It trains the student and the adapters. The
    teacher's maps are detached, and all is computed in the adapters' precision, fp32
    whatever the autocast dtype.

    The paper trains one middle layer in a stage of its own; here, as in the
    source, all levels are trained together with the other terms.

    Paper: FitNets, ICLR 2015, https://arxiv.org/abs/1412.6550
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/FitNet.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        loss_weight (float): Beta. Defaults to 100.0, the hint's weight in
            HobbitLong/RepDistiller@b84f547.
        norm_cfg (dict, optional): Norm layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Defaults to He initialisation
            (normal, fan out).
        **kwargs: Other arguments of :class:`FeatureLoss`.
    """

    loss_name = 'loss_fitnet'

    @check_arguments(loss_weight=NOT_NEGATIVE)
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        loss_weight: float = 100.0,
        norm_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, init_cfg=init_cfg or ADAPTER_INIT, **kwargs)
        self.adapters = ModuleList(
            nn.Sequential(*adapter(c, d, norm_cfg), nn.ReLU())
            for c, d in zip(in_channels, out_channels)
        )

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the maps of one level, see :class:`FeatureLoss`."""
        adapted = in_own_precision(self.adapters[level], student)
        target = at_least_fp32(teacher)
        if weight is None:
            return F.mse_loss(adapted, target)
        return weighted_mean((adapted - target).square().mean(dim=1), weight)


def adapter(
    in_channels: int, out_channels: int, norm_cfg: Optional[dict]
) -> List[nn.Module]:
    """Return a 1x1 convolution without bias and its norm."""
    return [
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        build_norm(norm_cfg or dict(type='BN'), out_channels),
    ]
