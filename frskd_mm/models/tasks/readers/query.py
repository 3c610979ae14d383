"""The heads of the DETR family."""

from typing import Any, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
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
        """Return one reader for a ``bbox_head`` that is a ``DETRHead``.

        Not for DDQ's, which matches a part of its queries that it chooses anew in
        every layer.
        """
        from mmdet.models.dense_heads import DDQDETRHead, DETRHead

        head = getattr(detector, 'bbox_head', None)
        known = isinstance(head, DETRHead) and not isinstance(head, DDQDETRHead)
        return [cls('queries')] if known else []

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
        pairs = []
        for layer, image, ours, theirs in matched_pairs(
            student_matches, teacher_matches, len(student_cls), len(data_samples)
        ):
            # Denoising queries, which are not matched, stand in front.
            extra = [
                cls.shape[2] - queries
                for cls, queries in (
                    (student_cls, ours.queries),
                    (teacher_cls, theirs.queries),
                )
            ]
            pairs.append(
                (
                    student_cls[layer, image, extra[0] + ours.matched],
                    teacher_cls[layer, image, extra[1] + theirs.matched],
                    student_bbox[layer, image, extra[0] + ours.matched],
                    teacher_bbox[layer, image, extra[1] + theirs.matched],
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


@HEAD_READERS.register_module()
class QueryStageReader(HeadReader):
    """Reads a stage of Sparse R-CNN or QueryInst: the matched queries.

    Masks are left out, since each head crops them at boxes of its own.

    Args:
        name (str): The head's name.
        stage (int): Index of the stage.
    """

    @check_arguments(stage=NOT_NEGATIVE)
    def __init__(self, name: str, stage: int) -> None:
        super().__init__(name)
        self.stage = stage
        self.matches = f'matches{stage}'

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for every stage of a ``SparseRoIHead``."""
        from mmdet.models.roi_heads import SparseRoIHead

        roi_head = getattr(detector, 'roi_head', None)
        if not isinstance(roi_head, SparseRoIHead):
            return []
        return [cls(f'queries{i}', i) for i in range(roi_head.num_stages)]

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the stage's outputs, its decoded boxes and its matchings."""
        roi_head = detector.roi_head
        return {
            self.name: (roi_head.bbox_head[self.stage], 'forward'),
            f'boxes{self.stage}': (roi_head.bbox_head[self.stage], 'refine_bboxes'),
            self.matches: (roi_head.bbox_assigner[self.stage], 'assign'),
        }

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare the paired queries' classes and boxes, see HeadReader.

        Boxes are (x1, y1, x2, y2) in parts of the image, as the head's loss has it.
        """
        num_images = len(data_samples)
        cls: List[List[Tensor]] = [[], []]
        boxes: List[List[Tensor]] = [[], []]
        for _, image, *pair in matched_pairs(
            student.outputs[self.matches], teacher.outputs[self.matches], 1, num_images
        ):
            height, width = data_samples[image].img_shape[:2]
            for i, (one, found) in enumerate(zip((student, teacher), pair)):
                scores = one.output(self.name)[0][image]
                decoded = one.output(f'boxes{self.stage}')[image].bboxes[found.matched]
                cls[i].append(scores[found.matched])
                size = decoded.new_tensor([width, height, width, height])
                boxes[i].append(decoded / size)
        head = teacher.model.roi_head.bbox_head[self.stage]
        student_cls = torch.cat(cls[0])
        return SoftLabels(
            student_cls=student_cls,
            teacher_cls=torch.cat(cls[1]),
            cls_form=sigmoid_form(head) if head.loss_cls.use_sigmoid else 'softmax',
            student_bbox=torch.cat(boxes[0]),
            teacher_bbox=torch.cat(boxes[1]),
            bbox_form='offset',
            weight=student_cls.new_ones(len(student_cls)),
        )


class Matched(NamedTuple):
    """Which queries of a decoder layer are matched, in the order of the objects."""

    matched: Tensor
    queries: int


def matched_pairs(
    student: Sequence[Any], teacher: Sequence[Any], num_layers: int, num_images: int
) -> Iterator[Tuple[int, int, Matched, Matched]]:
    """Pair the queries that are matched to the same object in both passes.

    Args:
        student: What the student's assigner returned, call by call: matching runs
            by layer, then by image. Calls after those are not read.
        teacher: The same of its teacher.
        num_layers: Of the decoder.
        num_images: N.

    Yields:
        tuple: Layer and image, and the matched queries of both.
    """
    for call in range(num_layers * num_images):
        layer, image = divmod(call, num_images)
        ours, theirs = student[call], teacher[call]
        queries = [query_of_box(one.gt_inds, one.num_gts) for one in (ours, theirs)]
        both = (queries[0] >= 0) & (queries[1] >= 0)
        yield (
            layer,
            image,
            Matched(queries[0][both], len(ours.gt_inds)),
            Matched(queries[1][both], len(theirs.gt_inds)),
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
