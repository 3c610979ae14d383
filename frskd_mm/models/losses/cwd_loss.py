"""CWD: channel by channel, the places that matter."""

from typing import Any, List, Optional

from torch import Tensor

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, POSITIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, in_own_precision

from .feature_loss import FeatureLoss
from .pkd_loss import align
from .soft_label_loss import softmax_divergence


@MODELS.register_module()
class CWDLoss(FeatureLoss):
    r"""Divergence of each channel's distribution over places.

    With p(F) the softmax of a channel over H * W, the loss sums over levels

    .. math::
        L_i = \tau^2 \frac{1}{N C} \sum_{n,c}
            KL(p(T_i / \tau) \,\|\, p(r(F_i) / \tau))

    r is a 1x1 convolution where student and teacher differ in channels. The
    teacher's maps are detached, and all is computed in fp32. There is no
    weighting of positions: each channel has its own already.

    Paper: Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
    https://arxiv.org/abs/2011.13256
    Source: open-mmlab/mmrazor@90c7af1, mmrazor/models/losses/cwd.py

    Args:
        in_channels (Sequence[int]): Channels c_i of the student's maps, given
            by the distiller.
        out_channels (Sequence[int]): Channels d_i of the teacher's maps, given
            by the distiller.
        loss_weight (float): Beta. Defaults to 1.0.
        temperature (float): Tau. Defaults to 1.0.
        **kwargs: Other arguments of :class:`FeatureLoss`.

    Raises:
        ValueError: If the temperature is not positive, or ``foreground`` is set.
    """

    loss_name = 'loss_cwd'

    @check_arguments(loss_weight=NOT_NEGATIVE, temperature=POSITIVE)
    def __init__(
        self,
        in_channels: List[int],
        out_channels: List[int],
        loss_weight: float = 1.0,
        temperature: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(loss_weight, **kwargs)
        if self.foreground is not None:
            raise ValueError(
                'CWDLoss weighs the positions of each channel itself: remove '
                f'foreground={self.foreground!r} from the feature_loss.'
            )
        self.temperature = temperature
        self.adapters = align(in_channels, out_channels)

    def level_loss(
        self, level: int, student: Tensor, teacher: Tensor, weight: Optional[Tensor]
    ) -> Tensor:
        """Compare the maps of one level, see :class:`FeatureLoss`."""
        ours, theirs = (
            feat.flatten(2) / self.temperature
            for feat in (
                in_own_precision(self.adapters[level], student),
                at_least_fp32(teacher),
            )
        )
        return self.temperature**2 * softmax_divergence(ours, theirs).mean()
