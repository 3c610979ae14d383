"""FRSKD: feature refinement via self-knowledge distillation."""

from typing import Any, Dict, Optional, Sequence, Tuple

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.feature_loss import build_feature_loss, compares_preacts
from frskd_mm.models.self_teacher import SelfTeacher
from frskd_mm.models.tasks.base import as_levels
from frskd_mm.registry import MODELS

from .base import (
    BaseDistiller,
    StudentLoss,
    name_student_loss,
    term_acts,
    with_prefix,
)


@MODELS.register_module()
class FRSKD(BaseDistiller):
    r"""Refine the student's features and teach it with what they yield.

    The self-teacher is a neck that refines the student's feature maps F to T,
    and a twin: the rest of the student, built a second time, that scores T.

    .. math::
        L = L_{task}(z_s, y) + L_{task}(z_t, y)
            + \alpha L_{KD}(z_s, z_t) + \beta L_F(F, T)

    L_KD and L_F train the student only: z_t and T are detached there. The
    self-teacher learns from its own task loss only. ``detach_inputs`` decides
    whether that loss also reaches the student's backbone.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/utils.py (``train``)

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        neck (dict): Refining neck. ``in_channels`` is inferred by a dry
            forward of the student unless it is given.
        soft_label (dict): L_KD; its ``loss_weight`` is alpha.
        feature_loss (dict): L_F, ``AttentionTransferLoss``, ``FitNetLoss`` or
            ``OverhaulLoss``; its ``loss_weight`` is beta. With beta = 0, FRSKD
            without features (FRSKD\F), it is not computed.
        detach_inputs (bool): True, the method's description, stops the
            gradients of the self-teacher's task loss at F. False, the authors'
            code, lets them train the student's backbone. Defaults to True.
        self_teacher_loss_weight (float): Factor on L_task(z_t, y).
            Defaults to 1.0.
        weight_schedule (dict, optional): Factor on alpha and beta over time,
            see ``WeightSchedule``. Constant by default.
        source (str, optional): Part of the student whose output is refined,
            'backbone' or 'neck'. The default depends on the task.
        twin (dict, optional): Settings merged into the inferred twin config.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.

    Raises:
        ValueError: If neck and student do not fit.
    """

    reads_levels = True

    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        neck: dict,
        soft_label: dict,
        feature_loss: dict,
        detach_inputs: bool = True,
        self_teacher_loss_weight: float = 1.0,
        weight_schedule: Optional[dict] = None,
        source: Optional[str] = None,
        twin: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
    ) -> None:
        super().__init__(student, weight_schedule)
        self.source = source or self.task.default_source(student)
        self.detach_inputs = detach_inputs
        self.self_teacher_loss_weight = self_teacher_loss_weight
        self.soft_label = MODELS.build(soft_label)
        self.self_teacher = SelfTeacher(
            self.task, student, student_cfg, neck, self.source, twin, input_size
        )
        built_neck = self.self_teacher.neck
        self.feature_loss: Any = build_feature_loss(
            feature_loss,
            in_channels=built_neck.in_channels,
            out_channels=built_neck.out_channels,
            teacher_norms=getattr(built_neck, 'output_norms', None),
        )
        self.preact = compares_preacts(self.feature_loss)
        if not self.is_active:
            # DistributedDataParallel would wait for gradients that never come.
            self.requires_grad_(False)

    @property
    def is_active(self) -> bool:
        """Whether any term beyond the student's own has a weight."""
        return any(
            (
                self.self_teacher_loss_weight,
                self.soft_label.loss_weight,
                self.feature_loss.loss_weight,
            )
        )

    def loss(
        self,
        student: BaseModel,
        student_loss: StudentLoss,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Dict[str, Tensor]:
        """Compute the four terms, see :class:`BaseDistiller`."""
        with self.task.record(student, self.source, self.preact) as student_outputs:
            losses = name_student_loss(student_loss(inputs, data_samples))
        if not self.is_active:
            return losses
        feats = as_levels(student_outputs.last('feats'))

        with self.self_teacher.record_neck(self.preact) as neck_outputs:
            refined = self.self_teacher.refine(feats, detach=self.detach_inputs)
        twin = self.self_teacher.twin
        self.self_teacher.follow_switches(student)
        with self.task.record_twin(twin, student_outputs) as teacher_outputs:
            teacher_losses = twin.loss(refined, self.task.copies(data_samples))
        losses.update(
            with_prefix(
                'self_teacher', teacher_losses, factor=self.self_teacher_loss_weight
            )
        )

        schedule = self.weight_schedule()
        if term_acts(self.soft_label, schedule):
            losses['loss_kd'] = schedule * self.task.soft_label_loss(
                self.soft_label, student, student_outputs, teacher_outputs, data_samples
            )
        if term_acts(self.feature_loss, schedule):
            maps = 'preacts' if self.preact else 'feats'
            losses[self.feature_loss.loss_name] = (
                schedule
                * self.task.apply_feature_loss(
                    self.feature_loss,
                    as_levels(student_outputs.last(maps)),
                    neck_outputs.last(maps),
                    teacher_outputs,
                    data_samples,
                )
            )
        losses.update(self.task.metrics(student_outputs, teacher_outputs, data_samples))
        return losses

    def predict(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Any:
        """Predict with the self-teacher, in the host library's form."""
        return self.task.predict(
            student, self.source, self.self_teacher, inputs, data_samples
        )
