"""FRSKD with self-supervised label augmentation."""

from typing import Any, Dict, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses import FeatureLoss
from frskd_mm.models.passes import Pass
from frskd_mm.models.tasks.classification import (
    head_setting,
    predicted_logits,
)
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .base import build_soft_label
from .frskd import FRSKD
from .joint_head import NUM_ROTATIONS, AllRotations, JointHead, rotate, unrotated


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

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        aggregate_loss: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(student=student, student_cfg=student_cfg, **kwargs)
        if self.interval != 1:
            raise ValueError(
                'FRSKDSLA has no interval: its joint heads train in every iteration. '
                'Remove interval from the distiller, or use FRSKD.'
            )
        if self.student_factor != 1.0:
            raise ValueError(
                'FRSKDSLA has no student_factor: its joint heads train with the '
                'student. Lower the learning rate instead, or use FRSKD.'
            )
        if kwargs.get('shared_head'):
            raise ValueError(
                'FRSKDSLA has no shared_head: its self-teacher has a joint head of its '
                'own. Remove shared_head from the distiller, or use FRSKD.'
            )
        self.aggregate_loss = build_soft_label(aggregate_loss, temperature=4.0)
        in_channels = head_setting(student, 'in_channels', 'FRSKDSLA')
        self.joint_head = JointHead(self.task, student_cfg, in_channels)
        self.teacher_joint_head = JointHead(
            self.task, student_cfg, self.self_teacher.twin.head.in_channels
        )

    #: The joint heads train whatever FRSKD's weights are.
    is_active = True

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute all terms, see :class:`BaseDistiller`."""
        with AllRotations(student, rotate) as pooled:
            student_pass = self.run_student(
                student, inputs, data_samples, self.levels, self.preact
            )
        twin = self.self_teacher.twin
        with AllRotations(twin) as refined_pooled:
            teacher_pass = self.run_self_teacher(student, student_pass, data_samples)
        for one, head, feats in (
            (student_pass, self.joint_head, pooled.feats),
            (teacher_pass, self.teacher_joint_head, refined_pooled.feats),
        ):
            joint = head(feats)
            aggregate = head.aggregate(joint)
            one.outputs['aggregate'] = [aggregate]
            one.losses['loss_joint'] = head.loss(joint, data_samples)
            one.losses['loss_sla'] = self.aggregate_loss(
                predicted_logits(one), aggregate
            )
        return self.four_terms(student_pass, teacher_pass, data_samples)

    def compare_outputs(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Tensor:
        """Average L_KD over plain and aggregated outputs."""
        plain = super().compare_outputs(student, teacher, data_samples)
        aggregated = self.soft_label(
            student.output('aggregate'), teacher.output('aggregate')
        )
        return 0.5 * (plain + aggregated)

    def compare_feats(
        self,
        feature_loss: FeatureLoss,
        student: Pass,
        teacher: Pass,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Average L_F over 5N maps: rotation 0 counts twice, as for the authors."""
        ours, theirs = (one.maps(feature_loss.preact) for one in (student, teacher))
        once = feature_loss(unrotated(ours), unrotated(theirs))
        all_rotations = feature_loss(ours, theirs)
        return (once + NUM_ROTATIONS * all_rotations) / (1 + NUM_ROTATIONS)
