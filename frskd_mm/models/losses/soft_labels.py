"""What a soft-label loss compares, whatever the task."""

from typing import Callable, NamedTuple, Optional

from torch import Tensor

CLS_FORMS = ('sigmoid', 'softmax', 'quality')
BBOX_FORMS = ('offset', 'distance', 'rotated', 'distribution')


class SoftLabels(NamedTuple):
    """What a head of student and teacher says about the same places.

    Places are images of a classifier, pixels of a segmentor, and of detectors
    the anchors or points of dense heads, proposals, mask pixels or queries: M
    of them, or N maps of H * W. ``None`` where a head has no such output.

    A task fills this in from two passes and the annotations. What a loss makes
    of it, such as the weight of foreground, is the loss's own choice.

    Attributes:
        student_cls, teacher_cls: Class logits (M, C) or (N, C, ...).
        cls_form: 'softmax', 'sigmoid', or 'quality' for sigmoid heads that are
            trained with the quality focal loss.
        student_quality, teacher_quality: Logits (M,) of centerness or
            objectness.
        student_bbox, teacher_bbox: (M, 4), or as many as the head's box targets
            have; (M, 4, bins) logits of box distributions.
        bbox_form: 'offset', regression targets in the head's own units;
            'distance', distances to the four sides; 'rotated', these along the
            box's own axes, and its angle in radians (M, 5); or 'distribution'.
        weight: (M,) or (N, ...) for the classes, not negative or boolean. By
            default all places count alike, and every process has as many.
        bbox_weight: (M,) for the boxes; all 1 by default.
        in_boxes: Tells for the places of a dense head which lie in
            ground-truth boxes, boolean (M,). Only there may foreground weigh
            more than the rest; proposals and queries are balanced already.
        labels: Ground-truth labels (N, H', W') of segmentation.
        ignore_index: The label of pixels that do not count.
        align_corners: How the head resizes its logits.
        share: Factor on this head's terms among those of other heads.
    """

    student_cls: Tensor
    teacher_cls: Tensor
    cls_form: str = 'softmax'
    student_quality: Optional[Tensor] = None
    teacher_quality: Optional[Tensor] = None
    student_bbox: Optional[Tensor] = None
    teacher_bbox: Optional[Tensor] = None
    bbox_form: Optional[str] = None
    weight: Optional[Tensor] = None
    bbox_weight: Optional[Tensor] = None
    in_boxes: Optional[Callable[[], Tensor]] = None
    labels: Optional[Tensor] = None
    ignore_index: Optional[int] = None
    align_corners: bool = False
    share: float = 1.0
