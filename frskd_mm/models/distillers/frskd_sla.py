"""FRSKD with self-supervised label augmentation."""

from typing import Any, Dict, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.base import as_levels
from frskd_mm.registry import MODELS

from .base import (
    StudentLoss,
    build_soft_label,
    name_student_loss,
    term_acts,
    with_prefix,
)
from .frskd import FRSKD
from .joint_head import (
    NUM_ROTATIONS,
    JointHead,
    rotate,
    unrotated,
    use_unrotated,
)


@MODELS.register_module()
class FRSKDSLA(FRSKD):
    r"""FRSKD on the four rotations of a batch, with joint heads.

    Student and self-teacher get a second head each, of class and rotation
    together (see ``JointHead``). With z the logits of rotation 0, j the joint
    logits of all rotations and a their aggregate, for student (s) and
    self-teacher (t),

    .. math::
        L = \sum_{m \in \{s, t\}} [ L_{task}(z_m, y) + L_{CE}(j_m, (y, r))
            + \lambda L_{KD}(z_m, a_m) ]
            + \frac{\alpha}{2} [ L_{KD}(z_s, z_t) + L_{KD}(a_s, a_t) ]
            + \frac{\beta}{5} [ L_F(F^0, T^0) + 4 L_F(F, T) ]

    where F, T are the features of all rotations, F^0, T^0 those of rotation 0.
    The second argument of each L_KD and L_F is detached. Everything that trains
    the self-teacher stops at F if ``detach_inputs``.

    The authors run the batch and, again, its four rotations, and average L_KD
    over 2N logits and L_F over 5N maps, rotation 0's twice: hence the weights.
    Here one pass of 4N images serves both. Two differences follow: batch norms
    see the 4N images together, not N and 4N in turn, and a feature loss with
    batch norms of its own (FitNet) sees N and 4N maps, not 5N.

    Only the student stays. ``AggregatedPredictionHook`` lets the student's joint
    head predict from four rotations at test time.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273, and SLA, ICML
    2020, https://arxiv.org/abs/1910.05872
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/sla.py and
    classification/utils.py (``train``)

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        aggregate_loss (dict, optional): L_KD from the plain head to the joint
            head's aggregate; its ``loss_weight`` is lambda. Defaults to
            temperature 4 and weight 1.
        **kwargs: Arguments of ``FRSKD``.

    Raises:
        TypeError: If the student is not a classifier.
    """

    classification_only = True

    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        aggregate_loss: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, student_cfg=student_cfg, **kwargs)
        self.aggregate_loss = build_soft_label(aggregate_loss, temperature=4.0)
        self.joint_head = JointHead(self.task, student_cfg, student.head.in_channels)
        self.teacher_joint_head = JointHead(
            self.task, student_cfg, self.self_teacher.twin.head.in_channels
        )

    #: The joint heads train whatever FRSKD's weights are.
    is_active = True

    def loss(
        self,
        student: BaseModel,
        student_loss: StudentLoss,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Dict[str, Tensor]:
        """Compute all terms, see :class:`BaseDistiller`."""
        twin = self.self_teacher.twin
        with self.task.record(student, self.source, self.preact) as student_outputs:
            pooled = student.extract_feat(rotate(inputs))
            with use_unrotated(student, pooled):
                losses = name_student_loss(student_loss(inputs, data_samples))
        feats = as_levels(student_outputs.last('feats'))

        with self.self_teacher.record_neck(self.preact) as neck_outputs:
            refined = self.self_teacher.refine(feats, detach=self.detach_inputs)
        self.self_teacher.follow_switches(student)
        with self.task.record_twin(twin, student_outputs) as teacher_outputs:
            refined_pooled = twin.extract_feat(refined)
            with use_unrotated(twin, refined_pooled):
                teacher_losses = twin.loss(unrotated(refined), data_samples)

        logits, joint = student_outputs.last('logits'), self.joint_head(pooled)
        teacher_logits = teacher_outputs.last('logits')
        teacher_joint = self.teacher_joint_head(refined_pooled)
        aggregate = self.joint_head.aggregate(joint)
        teacher_aggregate = self.teacher_joint_head.aggregate(teacher_joint)

        losses['loss_joint'] = self.joint_head.loss(joint, data_samples)
        losses['loss_sla'] = self.aggregate_loss(logits, aggregate)
        teacher_losses['loss_joint'] = self.teacher_joint_head.loss(
            teacher_joint, data_samples
        )
        teacher_losses['loss_sla'] = self.aggregate_loss(
            teacher_logits, teacher_aggregate
        )
        losses.update(
            with_prefix(
                'self_teacher', teacher_losses, factor=self.self_teacher_loss_weight
            )
        )

        schedule = self.weight_schedule()
        if term_acts(self.soft_label, schedule):
            losses['loss_kd'] = (
                0.5
                * schedule
                * (
                    self.soft_label(logits, teacher_logits)
                    + self.soft_label(aggregate, teacher_aggregate)
                )
            )
        if term_acts(self.feature_loss, schedule):
            maps = 'preacts' if self.preact else 'feats'
            losses[self.feature_loss.loss_name] = schedule * self.rotated_feature_loss(
                as_levels(student_outputs.last(maps)), neck_outputs.last(maps)
            )
        losses.update(self.task.metrics(student_outputs, teacher_outputs, data_samples))
        return losses

    def rotated_feature_loss(
        self, student_feats: Sequence[Tensor], teacher_feats: Sequence[Tensor]
    ) -> Tensor:
        """Average L_F over 5N maps: rotation 0 counts twice, as for the authors."""
        once = self.feature_loss(unrotated(student_feats), unrotated(teacher_feats))
        all_rotations = self.feature_loss(student_feats, teacher_feats)
        return (once + NUM_ROTATIONS * all_rotations) / (1 + NUM_ROTATIONS)
