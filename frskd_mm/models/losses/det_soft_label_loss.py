"""Soft labels for detectors, in the forms that their heads have."""

from typing import List, NamedTuple, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import full_precision

from .foreground import check_foreground
from .weighted_mean import weighted_mean

CLS_FORMS = ('sigmoid', 'softmax', 'quality')
BBOX_FORMS = ('offset', 'distance', 'distribution')


class SoftLabels(NamedTuple):
    """What a head of student and self-teacher says about the same M places.

    Places are anchors or points of dense heads, proposals, mask pixels or
    queries. ``None`` where a head has no such output.

    Attributes:
        student_cls, teacher_cls: Class logits (M, C).
        cls_form: 'sigmoid', 'softmax', or 'quality' for sigmoid heads that
            are trained with the quality focal loss.
        student_quality, teacher_quality: Logits (M,) of centerness or
            objectness.
        student_bbox, teacher_bbox: (M, 4), or (M, 4, bins) logits of box
            distributions.
        bbox_form: 'offset', regression targets in the head's own units;
            'distance', distances to the four sides; or 'distribution'.
        weight: (M,) for the classes; all 1 by default.
        bbox_weight: (M,) for the boxes; all 1 by default.
    """

    student_cls: Tensor
    teacher_cls: Tensor
    cls_form: str
    student_quality: Optional[Tensor] = None
    teacher_quality: Optional[Tensor] = None
    student_bbox: Optional[Tensor] = None
    teacher_bbox: Optional[Tensor] = None
    bbox_form: Optional[str] = None
    weight: Optional[Tensor] = None
    bbox_weight: Optional[Tensor] = None


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(sigmoid(teacher) || sigmoid(student)), elementwise, of logits."""
    teacher_prob = teacher.sigmoid()
    return teacher_prob * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (
        1.0 - teacher_prob
    ) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))


def softmax_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over the last dimension."""
    return F.kl_div(
        F.log_softmax(student, dim=-1),
        F.log_softmax(teacher, dim=-1),
        reduction='none',
        log_target=True,
    ).sum(dim=-1)


def distance_iou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - IoU of boxes given as distances (M, 4) from one point to the sides."""
    student, teacher = student.clamp(min=0), teacher.clamp(min=0)
    # Left, top, right, bottom: width is left + right, height top + bottom.
    overlap = torch.min(student, teacher)[:, :2] + torch.min(student, teacher)[:, 2:]
    areas = [(box[:, :2] + box[:, 2:]).prod(dim=1) for box in (student, teacher)]
    intersection = overlap.prod(dim=1)
    union = areas[0] + areas[1] - intersection
    return 1.0 - intersection / union.clamp(min=1e-6)


@MODELS.register_module()
class DetSoftLabelLoss(nn.Module):
    r"""Pull a detector's outputs towards its self-teacher's.

    At every place, with z the class logits and K the temperature,

    .. math::
        L = K^2 \sum_c KL(\sigma(z_{t,c} / K) \,\|\, \sigma(z_{s,c} / K))

    for sigmoid heads, a centerness or objectness logit counting as one more
    class; the softmax divergence of :class:`SoftLabelLoss` for softmax heads.
    Heads trained with the quality focal loss have it in that loss's form:
    class c's term times :math:`|\sigma(z_{t,c}) - \sigma(z_{s,c})|^2`.

    What is averaged: over the places of one head with weights w,
    :math:`\sum w L / \sum w`. A detector's dense maps have some 10^5 places
    an image, nearly all of them background, so a plain mean (``foreground=None``)
    is tiny and speaks of background. Proposals, mask pixels and matched
    queries are balanced already and always count equally. The terms of several
    heads (RPN, RoI, mask) are summed. Box terms always look at foreground
    only, since box outputs elsewhere are not trained.

    * Box distributions (GFL): K^2 times the KL over bins, mean over 4 sides.
    * ``bbox_weight`` > 0 adds box regression: mean over the 4 values of the
      L1 distance in the head's own targets (offsets), or 1 - IoU for heads
      that give distances to the sides.

    The teacher's outputs are detached here, all is computed in fp32, and the
    denominators are averaged over processes as the host's own losses do.

    An extension of this project: no FRSKD detector was published. The
    distribution term follows LD, CVPR 2022, https://arxiv.org/abs/2102.12252;
    the quality form GFL, NeurIPS 2020, https://arxiv.org/abs/2006.04388.

    Args:
        temperature (float): K above. Defaults to 1.0: larger values raise the
            sigmoid of every background place.
        loss_weight (float): Alpha in the paper. Defaults to 1.0.
        cls (str): 'auto' for the head's own form, or 'sigmoid', 'softmax' or
            'quality' to impose one. Defaults to 'auto'.
        bbox_weight (float): Factor on box regression. Defaults to 0.0.
        distribution_weight (float): Factor on box distributions.
            Defaults to 1.0.
        foreground (str, optional): Weight of the places of dense maps: None,
            'confidence' (the self-teacher's, squared), or 'boxes' (1 where
            the cell's centre lies in a ground-truth box, else 0). Defaults to
            'confidence'.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        loss_weight: float = 1.0,
        cls: str = 'auto',
        bbox_weight: float = 0.0,
        distribution_weight: float = 1.0,
        foreground: Optional[str] = 'confidence',
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}.')
        if cls not in ('auto', *CLS_FORMS):
            raise ValueError(f"cls must be 'auto' or one of {CLS_FORMS}, got {cls!r}.")
        for name, weight in (
            ('bbox_weight', bbox_weight),
            ('distribution_weight', distribution_weight),
        ):
            if weight < 0:
                raise ValueError(f'{name} must be >= 0, got {weight}.')
        check_foreground(foreground)
        self.temperature = temperature
        self.loss_weight = loss_weight
        self.cls = cls
        self.bbox_weight = bbox_weight
        self.distribution_weight = distribution_weight
        self.foreground = foreground

    def forward(self, heads: Sequence[SoftLabels]) -> Tensor:
        """Compute the weighted loss.

        Args:
            heads: One entry a head.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If student and teacher outputs differ in shape.
        """
        losses: List[Tensor] = []
        with full_precision(heads[0].student_cls):
            for labels in heads:
                _check_shapes(labels)
                losses.append(weighted_mean(self._cls_loss(labels), labels.weight))
                bbox_loss = self._bbox_loss(labels)
                if bbox_loss is not None:
                    losses.append(weighted_mean(bbox_loss, labels.bbox_weight))
            return self.loss_weight * torch.stack(losses).sum()

    def _cls_loss(self, labels: SoftLabels) -> Tensor:
        form = labels.cls_form if self.cls == 'auto' else self.cls
        student_cls = labels.student_cls.float()
        teacher_cls = labels.teacher_cls.detach().float()
        if form == 'softmax':
            loss = softmax_divergence(
                student_cls / self.temperature, teacher_cls / self.temperature
            )
        else:
            loss = self._binary(student_cls, teacher_cls)
            if form == 'quality':
                loss = loss * (teacher_cls.sigmoid() - student_cls.sigmoid()).square()
            loss = loss.sum(dim=-1)
        student, teacher = labels.student_quality, labels.teacher_quality
        if student is not None and teacher is not None:
            loss = loss + self._binary(student.float(), teacher.detach().float())
        return self.temperature**2 * loss

    def _binary(self, student: Tensor, teacher: Tensor) -> Tensor:
        return binary_divergence(student / self.temperature, teacher / self.temperature)

    def _bbox_loss(self, labels: SoftLabels) -> Optional[Tensor]:
        is_distribution = labels.bbox_form == 'distribution'
        factor = self.distribution_weight if is_distribution else self.bbox_weight
        if labels.student_bbox is None or labels.teacher_bbox is None or factor == 0:
            return None
        student = labels.student_bbox.float()
        teacher = labels.teacher_bbox.detach().float()
        if is_distribution:
            loss = self.temperature**2 * softmax_divergence(
                student / self.temperature, teacher / self.temperature
            ).mean(dim=1)
        elif labels.bbox_form == 'distance':
            loss = distance_iou_loss(student, teacher)
        else:
            loss = (student - teacher).abs().mean(dim=1)
        return factor * loss


def _check_shapes(labels: SoftLabels) -> None:
    for name in ('cls', 'quality', 'bbox'):
        student = getattr(labels, f'student_{name}')
        teacher = getattr(labels, f'teacher_{name}')
        if student is not None and student.shape != teacher.shape:
            raise ValueError(
                f'Student and self-teacher differ in the shape of their {name} '
                f'outputs: {tuple(student.shape)} and {tuple(teacher.shape)}. The '
                "distiller's twin=dict(...) must keep number of classes, anchors "
                'and levels.'
            )
