"""Heads that classify masks: MaskFormer and Mask2Former, of mmdet and mmseg."""

from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.environment import has_host
from frskd_mm.utils.recorder import Target

from .base import HeadReader
from .query import matched_pairs


def classifies_masks(head: Any) -> bool:
    """Whether a head is a ``MaskFormerHead``; mmseg's are mmdet's, too."""
    if not has_host('mmdet'):
        return False
    from mmdet.models.dense_heads import MaskFormerHead

    return isinstance(head, MaskFormerHead)


def mask_queries(
    student: Pass, teacher: Pass, num_images: int
) -> List[Tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pair the queries that are matched to the same mask.

    Args:
        student: The student's pass.
        teacher: The teacher's.
        num_images: N.

    Returns:
        list[tuple]: For every decoder layer and image class logits (G, C + 1) of
        the student and of the teacher, and masks (G, h, w) of both.
    """
    (student_cls, student_masks), (teacher_cls, teacher_masks) = (
        one.output('queries') for one in (student, teacher)
    )
    ours_matched, theirs_matched = (
        one.outputs['matches'] for one in (student, teacher)
    )
    return [
        (
            student_cls[layer][image][ours.matched],
            teacher_cls[layer][image][theirs.matched],
            student_masks[layer][image][ours.matched],
            teacher_masks[layer][image][theirs.matched],
        )
        for layer, image, ours, theirs in matched_pairs(
            ours_matched, theirs_matched, len(student_cls), num_images
        )
    ]


def query_targets(head: Any) -> Dict[str, Target]:
    """Return the decoder layers' outputs and the matchings of such a head."""
    return {'queries': (head, 'forward'), 'matches': (head.assigner, 'assign')}


def query_classes(student: Pass, teacher: Pass, num_images: int) -> SoftLabels:
    """Compare the classes of the paired queries of every decoder layer."""
    pairs = mask_queries(student, teacher, num_images)
    ours, theirs = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
    return SoftLabels(ours, theirs, 'softmax', weight=ours.new_ones(len(ours)))


def query_masks(student: Pass, teacher: Pass, num_images: int) -> SoftLabels:
    """Compare the masks of the paired queries, every pixel a place."""
    pairs = mask_queries(student, teacher, num_images)
    ours, theirs = (
        torch.cat([pair[i].reshape(-1, 1) for pair in pairs]) for i in (2, 3)
    )
    return SoftLabels(ours, theirs, 'sigmoid', weight=ours.new_ones(len(ours)))


@HEAD_READERS.register_module()
class MaskQueryReader(HeadReader):
    """Reads mask classification: the classes of the queries of the same mask."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``panoptic_head`` that classifies masks."""
        head = getattr(detector, 'panoptic_head', None)
        return [cls('queries')] if classifies_masks(head) else []

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the decoder layers' outputs and the matchings."""
        return query_targets(detector.panoptic_head)

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare the classes of the paired queries, see :class:`HeadReader`."""
        return query_classes(student, teacher, len(data_samples))


@HEAD_READERS.register_module()
class QueryMaskReader(MaskQueryReader):
    """Reads mask classification: the pixels of the masks of paired queries."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``panoptic_head`` that classifies masks."""
        head = getattr(detector, 'panoptic_head', None)
        return [cls('query_masks')] if classifies_masks(head) else []

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare masks, every pixel a place, see :class:`HeadReader`."""
        return query_masks(student, teacher, len(data_samples))
