"""FRSKD: feature refinement via self-knowledge distillation."""

from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.feature_loss import build_feature_loss
from frskd_mm.models.passes import Pass
from frskd_mm.models.self_teacher import SelfTeacher
from frskd_mm.models.tasks.levels import Levels, StageNames
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import (
    NOT_NEGATIVE,
    POSITIVE,
    at_least,
    check_arguments,
)
from frskd_mm.utils.model import class_of
from frskd_mm.utils.progress import training_progress

from .base import TeachingDistiller, scale_losses, with_prefix


@MODELS.register_module()
class FRSKD(TeachingDistiller):
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
        student_factor (float): Factor on all gradients that reach the student, those
            of its own loss among them; the self-teacher learns as before. The terms
            add up to several times the gradient of plain training, which a learning
            rate tuned for that may not bear with SGD.
            The student's terms are logged times this. A shared head learns from both
            kinds of maps, and is scaled for its student's alone. Defaults to 1.0.
        interval (int): The self-teacher runs on every so many iterations, from
            the first one on, and all three terms beside the student's are
            multiplied by it there, so that their sum over the training is
            kept. In the other iterations the student trains as if it were
            alone. With several processes the model's parameters are then not
            all used in every iteration: set ``find_unused_parameters=True`` in
            the config. Defaults to 1.
        weight_schedule (dict, optional): Factor on alpha and beta over time,
            see ``WeightSchedule``. Constant by default.
        source (str, optional): Part of the student whose output is refined,
            'backbone' or 'neck'. The default depends on the task.
        twin (dict, optional): Settings merged into the inferred twin config.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.
        stages (Sequence[str | int], optional): Where the student's backbone
            returns one map or none: what is refined besides, names of its modules
            or indices of the stages that are found, which are printed. By default
            the deepest of each map size, the coarsest four; of plain transformers
            four at even distances.
        guidance (dict, optional): Settings of ``LabelGuidance`` or, by its type, of
            ``LGDGuidance``, with which the self-teacher sees the ground truth; {}
            for the former's defaults. An extension. None by default: the published
            method.
        cross_head (int, optional): CrossKD, for the dense heads of RetinaNet, FCOS,
            ATSS and GFL: L_KD compares what the twin's head makes of the student's
            maps behind so many convolutions of its branches, instead of the
            student's own outputs. They are brought to the mean and standard deviation
            of the twin's. The head is constant there, and the student's later
            convolutions learn from its own loss alone. Distil boxes, too:
            ``bbox_weight`` of the soft label. CVPR 2024,
            https://arxiv.org/abs/2306.11369, jbwang1997/CrossKD@9f695b4, which cuts
            behind 3 of 4 convolutions. None by default.
        shared_head (bool): The student's own head, and what else follows its
            maps, scores the refined maps instead of a twin, as in LGD (AAAI 2022,
            https://arxiv.org/abs/2109.11496). It learns from the self-teacher's
            task loss, too, and its norms' statistics are of both kinds of maps. The
            refined maps must have the student's channels. Defaults to False.

    Raises:
        ValueError: If neck and student do not fit.
    """

    reads_levels = True
    levels: Levels

    @check_arguments(
        self_teacher_loss_weight=NOT_NEGATIVE,
        student_factor=POSITIVE,
        interval=at_least(1),
        input_size=at_least(1),
    )
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        neck: dict,
        soft_label: dict,
        feature_loss: dict,
        detach_inputs: bool = True,
        self_teacher_loss_weight: float = 1.0,
        student_factor: float = 1.0,
        interval: int = 1,
        weight_schedule: Optional[dict] = None,
        source: Optional[str] = None,
        twin: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
        guidance: Optional[dict] = None,
        cross_head: Optional[int] = None,
        shared_head: bool = False,
    ) -> None:
        super().__init__(student, weight_schedule, cross_head)
        self.detach_inputs = detach_inputs
        self.self_teacher_loss_weight = self_teacher_loss_weight
        self.student_factor = student_factor
        self.interval = interval
        self.soft_label = MODELS.build(soft_label)
        self.self_teacher = SelfTeacher(
            self.task,
            student,
            student_cfg,
            neck,
            source,
            twin,
            input_size,
            stages,
            shared_head,
        )
        if cross_head is not None and not shared_head:
            self.task.cut_heads(self.self_teacher.twin, cross_head)
        self.levels = self.self_teacher.levels
        self.feature_loss = build_feature_loss(
            feature_loss,
            in_channels=self.self_teacher.in_channels,
            out_channels=self.self_teacher.out_channels,
            teacher_norms=self.self_teacher.output_norms,
        )
        self.guidance: Any = None
        if guidance is not None:
            cfg = {'type': 'frskd_mm.LabelGuidance', **guidance}
            kind: Any = class_of(cfg)
            given = kind.inferred(self.task, student, cfg)
            self.guidance = MODELS.build(
                cfg,
                default_args=dict(in_channels=self.self_teacher.in_channels, **given),
            )
        if not self.is_active:
            # DistributedDataParallel would wait for gradients that never come.
            self.requires_grad_(False)

    @property
    def source(self) -> str:
        """Part of the student whose maps are refined."""
        return self.levels.source

    @property
    def is_active(self) -> bool:
        """Whether any term beyond the student's own has a weight."""
        losses = (self.soft_label, self.feature_loss)
        return bool(self.self_teacher_loss_weight) or any(
            loss is not None and loss.loss_weight for loss in losses
        )

    def before_forward(self, student: BaseModel) -> None:
        """Let the twin follow what hooks have exchanged in the student."""
        self.self_teacher.follow_part_switches(student)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the four terms, see :class:`BaseDistiller`."""
        student_pass = self.run_student(
            student, inputs, data_samples, self.levels, self.preact
        )
        if not self.is_active or not self.is_due():
            return scale_losses(student_pass.losses, self.student_factor)
        teacher_pass = self.run_self_teacher(student, student_pass, data_samples)
        return self.four_terms(student_pass, teacher_pass, data_samples)

    def four_terms(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Put the loss together from the two passes, in the paper's order."""
        weight = self.self_teacher_loss_weight
        distilled = {
            **self.soft_label_term(student, teacher, data_samples),
            **self.feature_term(student, teacher, data_samples),
        }
        terms = {
            **with_prefix('self_teacher', teacher.losses, factor=weight),
            **scale_losses(distilled, self.student_factor),
        }
        return {
            **scale_losses(student.losses, self.student_factor),
            **scale_losses(terms, self.interval),
            **self.task.metrics(student, teacher, data_samples),
        }

    def is_due(self) -> bool:
        """Whether the self-teacher runs in the runner's present iteration."""
        return self.interval == 1 or self._counts_as_due()

    @torch.compiler.disable
    def _counts_as_due(self) -> bool:
        return training_progress(by_epoch=False).current % self.interval == 0

    def run_self_teacher(
        self, student: BaseModel, student_pass: Pass, data_samples: Sequence[Any]
    ) -> Pass:
        """Refine the student's maps and let the twin score what comes out."""
        self_teacher, feats = self.self_teacher, student_pass.feats
        if self.detach_inputs:
            feats = tuple(feat.detach() for feat in feats)
        elif self.student_factor != 1.0:
            feats = tuple(scale_gradient(feat, self.student_factor) for feat in feats)
        if self.guidance is not None:
            drawn = self.task.draw_labels(student, data_samples, feats, self.guidance)
            feats = self.guidance(feats, drawn)
        preacts: Tuple[Tensor, ...] = ()
        if self.preact:
            refined, preacts = self_teacher.refine_with_preacts(feats)
        else:
            refined = self_teacher.refine(feats)
        self_teacher.follow_switches(student)
        with self_teacher.borrowing(student):
            twin_pass = self.run_twin(
                self_teacher.twin, refined, data_samples, student_pass
            )
        if self_teacher.is_shared:
            twin_pass.model = student  # whose parts they were
        twin_pass.preacts = preacts
        return twin_pass

    @property
    def predicts_without_labels(self) -> bool:
        """Whether :meth:`predict` can be used: not if labels are all it goes by."""
        return self.guidance is None or self.guidance.can_be_left_out

    def predict(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Any:
        """Predict with the self-teacher, in the host library's form.

        Raises:
            TypeError: If it cannot do without labels.
        """
        if not self.predicts_without_labels:
            raise TypeError(
                f'The self-teacher of {type(self.guidance).__name__} knows what it is '
                'told by labels, and cannot predict without them. Test the student, '
                'or a self-teacher with guidance={} (LabelGuidance).'
            )
        with self.self_teacher.borrowing(student):
            return self.task.predict(
                student, self.levels, self.self_teacher, inputs, data_samples
            )


def scale_gradient(feat: Tensor, factor: float) -> Tensor:
    """Return equal values through which a gradient passes times ``factor``."""
    constant = feat.detach()
    return constant + factor * (feat - constant)
