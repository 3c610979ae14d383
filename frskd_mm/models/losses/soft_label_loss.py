"""Soft labels: what the self-teacher predicts teaches the student."""

from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, POSITIVE, check_arguments, one_of
from frskd_mm.utils.precision import at_least_fp32, full_precision

from .foreground import FOREGROUNDS, confidence_weight
from .soft_labels import CLS_FORMS, SoftLabels
from .weighted_mean import weighted_mean


def binary_divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(sigmoid(teacher) || sigmoid(student)), elementwise, of logits."""
    teacher_prob = teacher.sigmoid()
    return teacher_prob * (F.logsigmoid(teacher) - F.logsigmoid(student)) + (
        1.0 - teacher_prob
    ) * (F.logsigmoid(-teacher) - F.logsigmoid(-student))


def softmax_divergence(student: Tensor, teacher: Tensor, dim: int = -1) -> Tensor:
    """KL(softmax(teacher) || softmax(student)) over one dimension of logits."""
    return F.kl_div(
        F.log_softmax(student, dim=dim),
        F.log_softmax(teacher, dim=dim),
        reduction='none',
        log_target=True,
    ).sum(dim=dim)


def distance_iou_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - IoU of boxes given as distances (M, 4) from one point to the sides."""
    student, teacher = student.clamp(min=0), teacher.clamp(min=0)
    # Left, top, right, bottom: width is left + right, height top + bottom.
    shared = torch.min(student, teacher)
    overlap = shared[:, :2] + shared[:, 2:]
    areas = [(box[:, :2] + box[:, 2:]).prod(dim=1) for box in (student, teacher)]
    intersection = overlap.prod(dim=1)
    union = areas[0] + areas[1] - intersection
    # Two boxes without area are alike.
    iou = torch.where(union > 0, intersection / union.clamp(min=1e-6), 1.0)
    return 1.0 - iou


def rotated_distance_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare rotated boxes given from one point: sides, then angle in radians (M, 5).

    1 - IoU along the boxes' own axes, as if they were turned alike, and the sine of
    the angle between them, without its sign: half a turn changes no box.
    """
    turn = (student[:, 4] - teacher[:, 4]).sin().abs()
    return distance_iou_loss(student[:, :4], teacher[:, :4]) + turn


@MODELS.register_module()
class SoftLabelLoss(nn.Module):
    r"""Divergence between softened predictions of student and teacher.

    At every place, with z the class logits and :math:`\tau` the temperature,

    .. math::
        L = \tau^2 \, KL(\mathrm{softmax}(z_t / \tau) \,\|\,
        \mathrm{softmax}(z_s / \tau))

    summed over classes (dim 1):

        >>> import torch
        >>> loss = SoftLabelLoss(temperature=4.0, loss_weight=2.0)
        >>> student, teacher = torch.zeros(1, 2), torch.tensor([[4.0, 0.0]])
        >>> print(f'{loss(student, teacher):.4f}')
        3.5502

    Heads with sigmoids have

    .. math::
        L = \tau^2 \sum_c KL(\sigma(z_{t,c} / \tau) \,\|\, \sigma(z_{s,c} / \tau))

    a centerness or objectness logit counting as one more class, and those
    trained with the quality focal loss have it in that loss's form: class c's
    term times :math:`|\sigma(z_{t,c}) - \sigma(z_{s,c})|^2`.

    What is averaged: over N for (N, C) logits, over the valid N * H * W
    positions for (N, C, H, W). Note that ``reduction='batchmean'`` of PyTorch
    divides by N alone. With weights w, :math:`\sum w L / \sum w`, the
    denominators averaged over processes, so that distributed training equals
    one process with all images. The terms of several heads are summed.

    A detector's dense maps have some 10^5 places an image, nearly all of them
    background, so a plain mean (``foreground=None``) is tiny and speaks of
    background. Proposals, mask pixels and matched queries are balanced already
    and always count equally. Box terms look at foreground only, since box
    outputs elsewhere are not trained:

    * box distributions (GFL): :math:`\tau^2` times the KL over bins, mean over
      4 sides;
    * box regression, if ``bbox_weight`` > 0: mean over the values (4; 5 or 6 of
      rotated boxes) of the L1 distance in the head's own targets (offsets), or
      1 - IoU for heads that give distances to the sides; if they give an angle
      besides, see :func:`rotated_distance_loss`.

    The teacher's outputs are detached here, and the loss is computed in fp32
    whatever the autocast dtype.

    All but the softmax form is an extension of this project: no FRSKD detector
    was published. The distribution term follows LD, CVPR 2022,
    https://arxiv.org/abs/2102.12252; the quality form GFL, NeurIPS 2020,
    https://arxiv.org/abs/2006.04388.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/KD.py and
    segmentation/utils/distill.py

    Args:
        temperature (float): Tau, K in the paper. Defaults to 4.0.
        loss_weight (float): Alpha in the paper. Defaults to 1.0.
        cls (str): 'auto' for the head's own form, or 'softmax', 'sigmoid' or
            'quality' to impose one. Defaults to 'auto'.
        upsample (bool): Whether to bring logit maps to the size of their labels
            (bilinear) first. Defaults to False.
        mask_ignored (bool): Whether pixels with the ignored label are left out,
            where there are labels. Defaults to True.
        foreground (str, optional): Weight of the places of dense detection
            heads: None, 'confidence' (the teacher's, squared), or 'boxes' (1
            where the cell's centre lies in a ground-truth box, else 0).
            Defaults to None.
        bbox_weight (float): Factor on box regression. Defaults to 0.0.
        distribution_weight (float): Factor on box distributions.
            Defaults to 1.0.

    Raises:
        ValueError: If an argument is out of range.
    """

    @check_arguments(
        temperature=POSITIVE,
        loss_weight=NOT_NEGATIVE,
        cls=one_of('auto', *CLS_FORMS),
        foreground=one_of(*FOREGROUNDS),
        bbox_weight=NOT_NEGATIVE,
        distribution_weight=NOT_NEGATIVE,
    )
    def __init__(
        self,
        temperature: float = 4.0,
        loss_weight: float = 1.0,
        cls: str = 'auto',
        upsample: bool = False,
        mask_ignored: bool = True,
        foreground: Optional[str] = None,
        bbox_weight: float = 0.0,
        distribution_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.loss_weight = loss_weight
        self.cls = cls
        self.upsample = upsample
        self.mask_ignored = mask_ignored
        self.foreground = foreground
        self.bbox_weight = bbox_weight
        self.distribution_weight = distribution_weight

    def forward(
        self,
        student: Union[Tensor, SoftLabels, Sequence[SoftLabels]],
        teacher: Optional[Tensor] = None,
        mask: Optional[Tensor] = None,
        labels: Optional[Tensor] = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student: Logits (N, C) or (N, C, ...); or what a task compares, one
                ``SoftLabels`` a head, and nothing else.
            teacher: Logits of the same shape; detached here.
            mask: Boolean (N, ...), true where a position counts; with no true
                position the loss is 0. All positions count by default.
            labels: Label maps (N, H', W'), which ``upsample`` and
                ``mask_ignored`` refer to.
            ignore_index: The label that is ignored.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If student and teacher outputs differ in shape, or
                labels that are needed are missing.
        """
        if isinstance(student, Tensor):
            if teacher is None:
                raise TypeError('Logits of the student need logits of the teacher.')
            heads: List[SoftLabels] = [
                SoftLabels(
                    student,
                    teacher,
                    weight=mask,
                    labels=labels,
                    ignore_index=ignore_index,
                )
            ]
        else:
            heads = [student] if isinstance(student, SoftLabels) else list(student)
        with full_precision(heads[0].student_cls):
            terms = [head.share * self.head_loss(head) for head in heads]
            return self.loss_weight * sum(terms[1:], terms[0])

    def head_loss(self, head: SoftLabels) -> Tensor:
        """Compute the terms of one head, unweighted.

        A loss of another form than a divergence place by place, or one that
        also looks across places, replaces this.

        Args:
            head: What is compared.

        Returns:
            Tensor: Scalar.
        """
        if self.upsample:  # brings logits of other strides to one size
            head = self._on_grid(head)
            check_shapes(head)
        else:
            check_shapes(head)
            head = self._on_grid(head)
        weight, bbox_weight = self.place_weights(head)
        divergence = self.divergence(head)
        if weight is not None and weight.dtype == torch.bool:
            # where(), not a product: 0 * inf of an ignored position is NaN.
            divergence = torch.where(weight, divergence, divergence.new_zeros(()))
        if weight is None and divergence.numel():
            loss = divergence.mean()
        else:
            loss = weighted_mean(divergence, weight)
        bbox_loss = self.bbox_divergence(head)
        if bbox_loss is not None:
            loss = loss + weighted_mean(bbox_loss, bbox_weight)
        return loss

    def divergence(self, head: SoftLabels) -> Tensor:
        """Compare the classes at every place.

        Returns:
            Tensor: fp32 (M,) or (N, ...).
        """
        form = head.cls_form if self.cls == 'auto' else self.cls
        student = at_least_fp32(head.student_cls)
        teacher = at_least_fp32(head.teacher_cls.detach())
        if form == 'softmax':
            loss = softmax_divergence(
                student / self.temperature, teacher / self.temperature, dim=1
            )
        else:
            loss = self._binary(student, teacher)
            if form == 'quality':
                loss = loss * (teacher.sigmoid() - student.sigmoid()).square()
            loss = loss.sum(dim=1)
        if head.student_quality is not None and head.teacher_quality is not None:
            loss = loss + self._binary(
                at_least_fp32(head.student_quality),
                at_least_fp32(head.teacher_quality.detach()),
            )
        return self.temperature**2 * loss

    def bbox_divergence(self, head: SoftLabels) -> Optional[Tensor]:
        """Compare the boxes at every place.

        Returns:
            Tensor, optional: fp32 (M,), weighted by kind; None where the head
            has no boxes or their factor is 0.
        """
        is_distribution = head.bbox_form == 'distribution'
        factor = self.distribution_weight if is_distribution else self.bbox_weight
        if head.student_bbox is None or head.teacher_bbox is None or factor == 0:
            return None
        student = at_least_fp32(head.student_bbox)
        teacher = at_least_fp32(head.teacher_bbox.detach())
        if is_distribution:
            loss = self.temperature**2 * softmax_divergence(
                student / self.temperature, teacher / self.temperature
            ).mean(dim=1)
        elif head.bbox_form == 'distance':
            loss = distance_iou_loss(student, teacher)
        elif head.bbox_form == 'rotated':
            loss = rotated_distance_loss(student, teacher)
        else:
            loss = (student - teacher).abs().mean(dim=1)
        return factor * loss

    def _binary(self, student: Tensor, teacher: Tensor) -> Tensor:
        return binary_divergence(student / self.temperature, teacher / self.temperature)

    def _on_grid(self, head: SoftLabels) -> SoftLabels:
        """Bring logit maps to the grid on which they are compared, and mask it."""
        if head.labels is None:
            if self.upsample:
                raise ValueError(
                    f'upsample=True of {type(self).__name__} needs the labels, whose '
                    'size the logits are brought to. Pass labels=, or set '
                    'upsample=False in the soft_label of the distiller.'
                )
            return head
        labels = head.labels
        if self.upsample:
            student, teacher = (
                F.interpolate(
                    at_least_fp32(logits),
                    size=labels.shape[1:],
                    mode='bilinear',
                    align_corners=head.align_corners,
                )
                for logits in (head.student_cls, head.teacher_cls.detach())
            )
            head = head._replace(student_cls=student, teacher_cls=teacher)
        if not self.mask_ignored or head.weight is not None:
            return head
        size = head.student_cls.shape[2:]
        return head._replace(weight=_valid_pixels(labels, size, head.ignore_index))

    def place_weights(
        self, head: SoftLabels
    ) -> Tuple[Optional[Tensor], Optional[Tensor]]:
        """Return the weights of the places' classes and boxes."""
        if head.in_boxes is None:
            return head.weight, head.bbox_weight
        if self.foreground == 'boxes':
            weight = head.in_boxes().float()
        else:
            weight = confidence_weight(
                head.teacher_cls, head.teacher_quality, head.cls_form == 'softmax'
            )
        return (weight if self.foreground else head.weight), weight


def check_shapes(head: SoftLabels) -> None:
    """Require outputs of one shape from student and teacher.

    Raises:
        ValueError: If they differ.
    """
    for name in ('cls', 'quality', 'bbox'):
        student = getattr(head, f'student_{name}')
        teacher = getattr(head, f'teacher_{name}')
        if student is not None and student.shape != teacher.shape:
            raise ValueError(
                f'The {name} outputs of student and teacher must have one shape, got '
                f'{tuple(student.shape)} and {tuple(teacher.shape)}. Let teacher and '
                'twin (twin=dict(...) in the distiller) keep number of classes, '
                'anchors and levels.'
            )


def _valid_pixels(
    labels: Tensor, size: Sequence[int], ignore_index: Optional[int]
) -> Tensor:
    """Return which positions (N, h, w) of logit maps have a label."""
    # Labels up to 255 are exact in fp32; integers cannot be interpolated.
    resized = F.interpolate(
        labels[:, None].float(), size=tuple(size), mode='nearest-exact'
    )[:, 0]
    if ignore_index is None:
        return torch.ones_like(resized, dtype=torch.bool)
    return resized != ignore_index
