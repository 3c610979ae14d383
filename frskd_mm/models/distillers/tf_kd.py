"""Tf-KD-reg: a virtual teacher, designed by hand."""

from typing import Any, Dict, Sequence

import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import predicted_logits, target_scores
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, NOT_NEGATIVE, POSITIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision

from .base import BaseDistiller, scale_losses


@MODELS.register_module()
class TfKDReg(BaseDistiller):
    r"""Distil from a virtual teacher that is right with probability a.

    .. math::
        L = (1 - \alpha) L_{task}(z, y) + \alpha w
            KL(\mathrm{softmax}(p^d / T) \,\|\, \mathrm{softmax}(z / T_s))

    p^d(k) is a for the label and (1 - a) / (C - 1) for the other C - 1 classes;
    the authors soften these probabilities as if they were logits. The divergence
    is summed over classes and averaged over N. The authors' code averages over
    N * C and multiplies by 100, which is the same for 100 classes.

    In the paper T softens both sides, in the code the teacher alone: the code's
    T_s = 1 is the default.

    Paper: Revisiting Knowledge Distillation via Label Smoothing Regularization,
    CVPR 2020, https://arxiv.org/abs/1909.11723
    Source: yuanli2333/Teacher-free-Knowledge-Distillation@d000ab3,
    my_loss_function.py (``loss_kd_regularization``)

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        alpha (float): Share of the virtual teacher. Defaults to 0.1.
        temperature (float): T. Defaults to 20.0.
        student_temperature (float): T_s; the paper's is T. Defaults to 1.0.
        correct_prob (float): a. Defaults to 0.99.
        loss_weight (float): w. Defaults to 1.0.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If an argument is out of range.
    """

    classification_only = True

    @check_arguments(
        alpha=FRACTION,
        temperature=POSITIVE,
        student_temperature=POSITIVE,
        correct_prob=(POSITIVE, FRACTION),
        loss_weight=NOT_NEGATIVE,
    )
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        alpha: float = 0.1,
        temperature: float = 20.0,
        student_temperature: float = 1.0,
        correct_prob: float = 0.99,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(student)
        self.alpha = alpha
        self.temperature = temperature
        self.student_temperature = student_temperature
        self.correct_prob = correct_prob
        self.loss_weight = loss_weight

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        student_pass = self.run_student(student, inputs, data_samples)
        losses = scale_losses(student_pass.losses, 1.0 - self.alpha)
        logits = predicted_logits(student_pass)
        with full_precision(logits):
            log_student = F.log_softmax(
                at_least_fp32(logits) / self.student_temperature, dim=1
            )
            scores = target_scores(data_samples, num_classes=logits.shape[1])
            virtual = self.virtual_teacher(scores.to(log_student.dtype))
            divergence = F.kl_div(
                log_student,
                F.softmax(virtual / self.temperature, dim=1),
                reduction='batchmean',
            )
        losses['loss_tf_kd'] = self.alpha * self.loss_weight * divergence
        return losses

    def virtual_teacher(self, scores: Tensor) -> Tensor:
        """Return p^d for target distributions, (N, C) like them."""
        wrong_prob = (1.0 - self.correct_prob) / (scores.shape[1] - 1)
        return wrong_prob + (self.correct_prob - wrong_prob) * scores
