"""The heads of the DETR family."""

from typing import Any, Dict, List, Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.recorder import Target

from .base import HeadReader
from .dense import sigmoid_form


@HEAD_READERS.register_module()
class QueryReader(HeadReader):
    """Reads DETR heads: the queries matched to the same ground-truth box.

    Query slots mean nothing across two transformers, so others cannot be paired.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``bbox_head`` that is a ``DETRHead``."""
        from mmdet.models.dense_heads import DETRHead

        head = getattr(detector, 'bbox_head', None)
        return [cls('queries')] if isinstance(head, DETRHead) else []

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the decoder layers' outputs and the matchings."""
        head = detector.bbox_head
        return {self.name: (head, 'forward'), 'matches': (head.assigner, 'assign')}

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare the paired queries of every decoder layer, see HeadReader."""
        (student_cls, student_bbox), (teacher_cls, teacher_bbox) = (
            one.output(self.name)[:2] for one in (student, teacher)
        )
        student_matches, teacher_matches = (
            one.outputs['matches'] for one in (student, teacher)
        )
        num_images = len(data_samples)
        pairs = []
        # Matching runs by layer, then by image; encoder proposals come after.
        for call in range(len(student_cls) * num_images):
            layer, image = divmod(call, num_images)
            student_query, teacher_query = (
                query_of_box(matches[call].gt_inds, matches[call].num_gts)
                for matches in (student_matches, teacher_matches)
            )
            both = (student_query >= 0) & (teacher_query >= 0)
            # Denoising queries, which are not matched, stand in front.
            extra = [
                cls.shape[2] - len(matches[call].gt_inds)
                for cls, matches in (
                    (student_cls, student_matches),
                    (teacher_cls, teacher_matches),
                )
            ]
            pairs.append(
                (
                    student_cls[layer, image, extra[0] + student_query[both]],
                    teacher_cls[layer, image, extra[1] + teacher_query[both]],
                    student_bbox[layer, image, extra[0] + student_query[both]],
                    teacher_bbox[layer, image, extra[1] + teacher_query[both]],
                )
            )
        student_cls, teacher_cls, student_bbox, teacher_bbox = map(
            torch.cat, zip(*pairs)
        )
        head = teacher.model.bbox_head
        return SoftLabels(
            student_cls=student_cls,
            teacher_cls=teacher_cls,
            cls_form=sigmoid_form(head) if head.loss_cls.use_sigmoid else 'softmax',
            student_bbox=student_bbox,
            teacher_bbox=teacher_bbox,
            bbox_form='offset',
            weight=student_cls.new_ones(len(student_cls)),
        )


def query_of_box(gt_inds: Tensor, num_boxes: int) -> Tensor:
    """Return the query matched to every box (G,), -1 for none.

    Args:
        gt_inds: 1-based box of every query, 0 for none (Q,).
        num_boxes: G.
    """
    query = gt_inds.new_full((num_boxes,), -1)
    matched = (gt_inds > 0).nonzero().squeeze(1)
    query[gt_inds[matched] - 1] = matched
    return query
