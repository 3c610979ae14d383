"""PKD: feature maps that correlate, whatever their scale."""

from typing import Any, List, Optional, Sequence

from mmengine.model import ModuleList
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .weighted_mean import weighted_mean


def align(in_channels: Sequence[int], out_channels: Sequence[int]) -> ModuleList:
    """Return a 1x1 convolution for every level whose channels differ.

    Args:
        in_channels: Channels c_i of the student's maps.
        out_channels: Channels d_i of the teacher's maps.

    Returns:
        ModuleList: From c_i to d_i; identities where these are equal.
    """
    return ModuleList(
        nn.Identity() if c == d else nn.Conv2d(c, d, 1)
        for c, d in zip(in_channels, out_channels)
    )


def standardise(feat: Tensor) -> Tensor:
    """Give every channel mean 0 and variance 1 over N, H and W.

    Args:
        feat: (N, C, H, W).
    """
    centred = feat - feat.mean(dim=(0, 2, 3), keepdim=True)
    # The unbiased variance, as in the source; 0 for a single place.
    places = max(2, len(feat) * feat.shape[2] * feat.shape[3])
    variance = centred.square().sum(dim=(0, 2, 3), keepdim=True) / (places - 1)
    # The root of 0 has no finite gradient.
    return centred / (variance.clamp(min=1e-24).sqrt() + 1e-6)


@MODELS.register_module()
class PKDLoss(FeatureLoss):
    r"""Half the mean squared error between standardised maps.

    With n(F) the map whose channels have mean 0 and variance 1 over N, H and W,
    the loss sums over levels

    .. math::
        L_i = \frac{1}{2}\,\mathrm{mean}\,(n(r(F_i)) - n(T_i))^2

    which is 1 minus the Pearson correlation of a channel, averaged over
    channels: where the maps are strong, not how strong they are. r is a 1x1
    convolution where student and teacher differ in channels, which the source
    does not allow for. With weights of the positions the mean over positions
    is weighted; n stays that of whole maps. The teacher's maps are detached, and
    all is computed in fp32.

    Paper: PKD: General Distillation Framework for Object Detectors via Pearson
    Correlation Coefficient, NeurIPS 2022, https://arxiv.org/abs/2207.02039
    Source: open-mmlab/mmrazor@90c7af1, mmrazor/models/losses/pkd_loss.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        loss_weight (float): Beta. Defaults to 6.0, the source's for detectors.
        **kwargs: Other arguments of :class:`FeatureLoss`.
    """

    loss_name = 'loss_pkd'

    @check_arguments(loss_weight=NOT_NEGATIVE)
    def __init__(
        self,
        in_channels: List[int],
        out_channels: List[int],
        loss_weight: float = 6.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, **kwargs)
        self.adapters = align(in_channels, out_channels)

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the maps of one level, see :class:`FeatureLoss`."""
        adapted = in_own_precision(self.adapters[level], student)
        difference = standardise(adapted) - standardise(at_least_fp32(teacher))
        squares = difference.square()
        if weight is None:
            return squares.mean() / 2
        return weighted_mean(squares.mean(dim=1), weight) / 2
