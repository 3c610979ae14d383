"""FitNet: adapted student features follow the teacher's."""

from typing import List, Optional, Sequence, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import full_precision

from .attention_transfer_loss import check_levels

#: He initialisation (normal, fan out) of the adapters, as in the sources.
ADAPTER_INIT = [
    dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
    dict(type='Constant', layer='_BatchNorm', val=1),
]


@MODELS.register_module()
class FitNetLoss(BaseModule):
    """Mean squared error between adapted student maps and teacher maps.

    At every level r is a 1x1 convolution without bias, BN and ReLU from c_i to
    d_i channels, and the loss sums over levels the mean over N * d_i * H * W of
    (r(F_i) - T_i)^2. It trains the student and the adapters. The teacher's
    maps are detached here, and all is computed in the adapters' precision, fp32
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
    """

    loss_name = 'loss_fitnet'

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        loss_weight: float = 100.0,
        norm_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
    ) -> None:
        super().__init__(init_cfg or ADAPTER_INIT)
        self.loss_weight = loss_weight
        self.adapters = ModuleList(
            nn.Sequential(*adapter(c, d, norm_cfg), nn.ReLU())
            for c, d in zip(in_channels, out_channels)
        )

    def forward(
        self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student_feats: Per level (N, c_i, H, W), fine to coarse.
            teacher_feats: Per level (N, d_i, H, W); detached here.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If the levels differ in number or in N, H, W.
        """
        check_levels(student_feats, teacher_feats)
        with full_precision(student_feats[0]):
            dtype = next(self.parameters()).dtype
            losses = [
                F.mse_loss(adapt(student.to(dtype)), teacher.detach().to(dtype))
                for adapt, student, teacher in zip(
                    self.adapters, student_feats, teacher_feats
                )
            ]
            return self.loss_weight * torch.stack(losses).sum()


def adapter(
    in_channels: int, out_channels: int, norm_cfg: Optional[dict]
) -> List[nn.Module]:
    """Return a 1x1 convolution without bias and its norm."""
    return [
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        build_norm_layer(norm_cfg or dict(type='BN'), out_channels)[1],
    ]
