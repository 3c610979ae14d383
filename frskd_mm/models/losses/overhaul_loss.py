"""Overhaul of feature distillation: compare maps before their ReLU."""

import math
from typing import Any, List, Optional, Sequence, Union

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments, one_of
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .fitnet_loss import ADAPTER_INIT, adapter


def margin_of_norm(norm: Any) -> Tensor:
    """Return the expected negative response behind a norm, a channel.

    A norm with weight s and bias m gives about N(m, s^2), so the margin is
    E[x | x < 0] = m - |s| exp(-(m / s)^2 / 2) / (sqrt(2 pi) Phi(-m / |s|)), and
    -3 |s| where fewer than one value in 1,000 is negative.

    Args:
        norm: A module with weight and bias, such as BN; or with neither, as IN by
            default, which stands for 1 and 0.

    Returns:
        Tensor: (C, ).
    """
    if norm.weight is None:
        channels = getattr(norm, 'num_features', None) or norm.num_channels
        std, mean = torch.ones(channels), torch.zeros(channels)
    else:
        std = at_least_fp32(norm.weight.detach()).abs().clamp(min=1e-12)
        mean = at_least_fp32(norm.bias.detach())
    negative = 0.5 * (1 + torch.erf(-mean / std / math.sqrt(2)))
    density = torch.exp(-0.5 * (mean / std).square()) / math.sqrt(2 * math.pi)
    expected = mean - std * density / negative.clamp(min=1e-12)
    return torch.where(negative > 0.001, expected, -3 * std)


def margin_of_map(feat: Tensor) -> Tensor:
    """Return the mean negative response of a map (N, C, H, W), a channel (C, )."""
    total = feat.clamp(max=0).sum(dim=(0, 2, 3))
    return total / (feat < 0).sum(dim=(0, 2, 3)).clamp(min=1)


@MODELS.register_module()
class OverhaulLoss(FeatureLoss):
    r"""Partial L2 distance between pre-ReLU maps, with a margin ReLU.

    With r a 1x1 convolution without bias and BN from c_i to d_i channels, F
    and T the maps *before* their last ReLU, and m < 0 the margin of a channel,

    .. math::
        L_i &= \frac{1}{N} \sum_{n,c,h,w} d(r(F_i), \max(T_i, m))

        d(s, t) &= 0 \text{ if } s \le t \le 0, \text{ else } (s - t)^2

    and level i of n, fine to coarse, counts :math:`2^{-(n - i)}`. The value is a sum
    over d_i * H * W, in which each position has its weight if there are any: retune
    ``loss_weight`` when the resolution changes. The teacher's maps are detached, and
    all is computed in fp32 whatever the autocast dtype, but for the adapters of a
    model that is cast as a whole.

    The margin is the expectation of a channel's negative responses, by

    * ``'norm'``: the weight and bias that the norm before the teacher's map
      had when the loss was built. The default, and the authors' code: a fresh
      BN (weight 1, bias 0) of a self-teacher gives -0.798 for every channel;
    * ``'batch'``: the mean over the negative responses of the batch itself,
      the paper's other way. The one for a trained teacher of any kind.

    Paper: A Comprehensive Overhaul of Feature Distillation, ICCV 2019,
    https://arxiv.org/abs/1904.01866
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/OD.py, after
    clovaai/overhaul-distillation@76344a8, CIFAR-100/distiller.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        teacher_norms (Sequence[nn.Module], optional): The norms before the
            teacher's maps, given by the distiller; only read.
        loss_weight (float): Beta. Defaults to 1e-3, the weight for CIFAR-100 in
            clovaai/overhaul-distillation.
        margin (str): 'norm' or 'batch'. Defaults to 'norm'.
        norm_cfg (dict, optional): Norm layer. Defaults to ``dict(type='BN')``.
        init_cfg (dict | list[dict], optional): Defaults to He initialisation
            (normal, fan out).
        **kwargs: Other arguments of :class:`FeatureLoss`.

    Raises:
        ValueError: If the margin is unknown or there is no norm to read.
    """

    loss_name = 'loss_overhaul'
    preact = True

    @check_arguments(loss_weight=NOT_NEGATIVE, margin=one_of('norm', 'batch'))
    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
        teacher_norms: Optional[Sequence[nn.Module]] = None,
        loss_weight: float = 1e-3,
        margin: str = 'norm',
        norm_cfg: Optional[dict] = None,
        init_cfg: Union[dict, List[dict], None] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, init_cfg=init_cfg or ADAPTER_INIT, **kwargs)
        if margin == 'norm' and not teacher_norms:
            raise ValueError(
                "margin='norm' of OverhaulLoss reads the norms before the maps of a "
                'BiFPN or BiFPNc self-teacher, and this teacher names none. Set '
                "margin='batch' in the distiller's feature_loss."
            )
        self.margin = margin
        self.adapters = ModuleList(
            nn.Sequential(*adapter(c, d, norm_cfg))
            for c, d in zip(in_channels, out_channels)
        )
        if margin == 'norm':
            for level, norm in enumerate(teacher_norms or ()):
                self.register_buffer(f'margin_{level}', margin_of_norm(norm))

    def sum_levels(
        self, losses: Sequence[Tensor], teacher_feats: Sequence[Tensor]
    ) -> Tensor:
        """Halve a level for each that is coarser; YOLOv3's come coarse to fine."""
        first, last = (teacher_feats[i].shape[-2:].numel() for i in (0, -1))
        coarser = range(len(losses))
        if first >= last:
            coarser = coarser[::-1]
        halved = [loss / 2**number for number, loss in zip(coarser, losses)]
        return super().sum_levels(halved, teacher_feats)

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the pre-ReLU maps of one level, see :class:`FeatureLoss`."""
        source = in_own_precision(self.adapters[level], student)
        teacher = at_least_fp32(teacher)
        if self.margin == 'norm':
            margin = getattr(self, f'margin_{level}')
        else:
            margin = margin_of_map(teacher)
        target = torch.maximum(teacher, margin[:, None, None])
        counts = (source > target) | (target > 0)
        distances = (source - target).square() * counts
        if weight is not None:
            distances = distances * weight[:, None]
        return distances.sum() / len(source)
