"""USKD: self-knowledge distillation with customised soft labels."""

from typing import Any, Dict, Optional, Sequence, Tuple

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor, nn

from frskd_mm.models.tasks.classification import (
    head_setting,
    predicted_logits,
    target_scores,
)
from frskd_mm.models.tasks.levels import StageNames
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .base import BaseDistiller
from .byot import check_num_levels


@MODELS.register_module()
class USKD(BaseDistiller):
    r"""Soften the label and order the other classes, without a teacher.

    .. math::
        L = L_{task}(z, y) + \alpha L_{target} + \beta L_{non} + \mu L_{weak}

    as :class:`USKDLoss` has them. The weak classifier is a linear layer on the
    pooled map of the stage before the last one; it goes when training ends.
    Its term also trains the backbone up to that stage.

    Paper: From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels, ICCV 2023,
    https://arxiv.org/abs/2303.13005
    Source: yzd-v/cls_KD@1e5d48f, mmcls/models/classifiers/distiller.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        uskd (dict, optional): Settings of ``USKDLoss``: alpha, beta, mu.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.
        stages (Sequence[str | int], optional): Which maps are read where the
            backbone returns one or none, see ``FRSKD``.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If the backbone gives a single level.
    """

    classification_only = True
    reads_levels = True

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        uskd: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
    ) -> None:
        super().__init__(student)
        self.levels = self.task.find_levels(student, 'backbone', input_size, stages)
        shapes = self.levels.shapes
        check_num_levels('USKD', self.levels)
        self.uskd = MODELS.build({'type': 'frskd_mm.USKDLoss', **(uskd or {})})
        num_classes = head_setting(student, 'num_classes', 'USKD')
        self.weak_classifier = nn.Linear(shapes[-2][0], num_classes)
        if not self.uskd.mu:
            # DistributedDataParallel would wait for gradients that never come.
            self.weak_classifier.requires_grad_(False)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the four terms, see :class:`BaseDistiller`."""
        student_pass = self.run_student(student, inputs, data_samples, self.levels)
        logits = predicted_logits(student_pass)
        weak_logits = self.weak_classifier(student_pass.feats[-2].mean(dim=(2, 3)))
        terms = self.uskd(
            logits,
            weak_logits,
            target_scores(data_samples, logits.shape[1]),
            mixed='gt_score' in data_samples[0],
        )
        names = ('loss_uskd_target', 'loss_uskd_non_target', 'loss_uskd_weak')
        return {**student_pass.losses, **dict(zip(names, terms))}
