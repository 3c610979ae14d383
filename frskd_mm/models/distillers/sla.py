"""SLA-SD: self-supervised label augmentation, self-distilled."""

from typing import Any, Dict, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import (
    check_one_branch,
    head_setting,
    predicted_logits,
)
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .base import BaseDistiller, build_soft_label
from .joint_head import AllRotations, JointHead, rotate


@MODELS.register_module()
class SLA(BaseDistiller):
    r"""Teach the student what its four rotations say together.

    .. math::
        L = L_{task}(z, y) + L_{CE}(j, (y, r))
            + \lambda T^2 KL(\mathrm{softmax}(a / T) \,\|\, \mathrm{softmax}(z / T))

    j are the joint logits of class and rotation, over all four rotations of the
    batch, and a (detached) their aggregate: the logits of rotation r at the
    outputs for r, averaged over r. The plain head learns from rotation 0 alone,
    which is the batch itself. All four run in one pass.

    ``AggregatedPredictionHook`` lets the aggregate predict at test time.

    Paper: Self-supervised Label Augmentation via Input Transformations, ICML
    2020, https://arxiv.org/abs/1910.05872
    Source: hankook/SLA@bc5d9cd, trainers.py (``create_sla_sd_trainer``)

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict, optional): The divergence; its ``loss_weight`` is
            lambda. Defaults to temperature 1 and weight 1.

    Raises:
        TypeError: If the student is not a classifier, or its head has two branches.
    """

    classification_only = True

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: Optional[dict] = None,
    ) -> None:
        super().__init__(student)
        check_one_branch(student, type(self).__name__)
        self.soft_label = build_soft_label(soft_label, temperature=1.0)
        in_channels = head_setting(student, 'in_channels', type(self).__name__)
        self.joint_head = JointHead(self.task, student_cfg, in_channels)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the three terms, see :class:`BaseDistiller`."""
        with AllRotations(student, rotate) as pooled:
            student_pass = self.run_student(student, inputs, data_samples)
        joint = self.joint_head(pooled.feats)
        aggregate = self.joint_head.aggregate(joint)
        return {
            **student_pass.losses,
            'loss_joint': self.joint_head.loss(joint, data_samples),
            'loss_sla': self.soft_label(predicted_logits(student_pass), aggregate),
        }
