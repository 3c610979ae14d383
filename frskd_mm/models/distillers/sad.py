"""SAD: self attention distillation, from deeper to shallower levels."""

from typing import Any, Dict, Optional, Sequence, Tuple

import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.levels import StageNames
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, at_least, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision

from .base import BaseDistiller
from .byot import check_num_levels


def spatial_attention(feat: Tensor, size: Sequence[int]) -> Tensor:
    """Return softmax over positions of the sum of squares over channels.

    Args:
        feat: (N, C, h, w).
        size: (H, W), to which the sum is resized (bilinear) first.

    Returns:
        Tensor: (N, H * W), positive and summing to 1.
    """
    energy = feat.square().sum(dim=1, keepdim=True)
    if energy.shape[2:] != size:
        energy = F.interpolate(energy, size=size, mode='bilinear', align_corners=False)
    return energy.flatten(1).softmax(dim=1)


@MODELS.register_module()
class SAD(BaseDistiller):
    r"""Let every level look where the next deeper one looks.

    With a_i the spatial attention of level i at the size of the shallower
    level, the softmax over positions of the sum of squares over channels,

    .. math::
        L = L_{task}(z, y) + \gamma \sum_{i=1}^{n-1}
            \mathrm{mean}\,(a_i(F_i) - a_i(F_{i+1}))^2

    the mean being over N * H * W. F_{i+1} is the target and detached, so term
    i trains the backbone up to level i; the source lets it train the deeper
    level too. The student gets no extra parts at all.

    The paper is on lane detection; nothing in the term depends on the task, so
    it serves classifiers, segmentors and detectors here.

    Paper: Learning Lightweight Lane Detection CNNs by Self Attention
    Distillation, ICCV 2019, https://arxiv.org/abs/1908.00821
    Source: InhwanBae/ENet-SAD_Pytorch@887eb36, model_ENET_SAD.py (``at_gen``);
    the authors' own repository has no training code of this term.

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``; unused.
        loss_weight (float): Gamma. Defaults to 0.1.
        weight_schedule (dict, optional): Factor on gamma over time, see
            ``WeightSchedule``; the source begins after 40,000 iterations.
            Constant by default.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.
        stages (Sequence[str | int], optional): Which maps are read where the
            backbone returns one or none, see ``FRSKD``.

    Raises:
        ValueError: If the backbone gives a single level.
    """

    reads_levels = True

    @check_arguments(loss_weight=NOT_NEGATIVE, input_size=at_least(1))
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        loss_weight: float = 0.1,
        weight_schedule: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
    ) -> None:
        super().__init__(student, weight_schedule)
        self.levels = self.task.find_levels(student, 'backbone', input_size, stages)
        check_num_levels(type(self).__name__, self.levels)
        self.loss_weight = loss_weight

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        student_pass = self.run_student(student, inputs, data_samples, self.levels)
        losses, feats = student_pass.losses, student_pass.feats
        weight = self.loss_weight * self.weight_schedule()
        if weight > 0:
            with full_precision(feats[0]):
                losses['loss_sad'] = weight * sum(
                    self._level_loss(
                        at_least_fp32(shallow), at_least_fp32(deep.detach())
                    )
                    for shallow, deep in zip(feats, feats[1:])
                )
        return losses

    @staticmethod
    def _level_loss(shallow: Tensor, deep: Tensor) -> Tensor:
        size = shallow.shape[2:]
        return F.mse_loss(
            spatial_attention(shallow, size), spatial_attention(deep, size)
        )
