"""Heads with an output at every place of every level: one-stage ones and RPNs."""

from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModel, BaseModule
from torch import Tensor

from frskd_mm.models.losses.foreground import confidence_weight, inside_boxes
from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass, map_size
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.recorder import Target

from .base import PLAIN_TERMS, HeadReader


@HEAD_READERS.register_module()
class DenseReader(HeadReader):
    """Reads the ``bbox_head`` of one-stage detectors.

    Class maps, box maps and maps of centerness or objectness are compared place by
    place and prior by prior.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``bbox_head`` that is a ``BaseDenseHead``."""
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

        head = getattr(detector, 'bbox_head', None)
        return [cls('dense')] if isinstance(head, BaseDenseHead) else []

    def head(self, detector: BaseModel) -> BaseModule:
        """Return the head."""
        return detector.bbox_head

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the head's maps."""
        return {self.name: (self.head(detector), 'forward')}

    def maps(self, model_pass: Pass) -> 'DenseMaps':
        """Return what the head gave in a pass.

        Raises:
            TypeError: If these are no class maps.
        """
        return DenseMaps(self.head(model_pass.model), model_pass.output(self.name))

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare all places of all levels, see :class:`HeadReader`."""
        ours, theirs = self.maps(student), self.maps(teacher)
        cls = join(ours.cls)
        labels = SoftLabels(
            student_cls=cls,
            teacher_cls=join(theirs.cls),
            cls_form=theirs.cls_form,
            student_quality=None if ours.quality is None else join(ours.quality),
            teacher_quality=None if theirs.quality is None else join(theirs.quality),
            weight=cls.new_ones(len(cls)),
            in_boxes=partial(theirs.in_boxes, data_samples),
        )
        if ours.bbox is None or theirs.bbox is None:
            return labels
        boxes = [join(ours.bbox), join(theirs.bbox)]
        if theirs.bbox_form == 'distribution':
            boxes = [box.unflatten(1, (4, -1)) for box in boxes]
        return labels._replace(
            student_bbox=boxes[0], teacher_bbox=boxes[1], bbox_form=theirs.bbox_form
        )


@HEAD_READERS.register_module()
class RPNReader(DenseReader):
    """Reads the ``rpn_head`` of two-stage detectors, a dense head."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for an ``rpn_head`` beside an ``roi_head``."""
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

        head = getattr(detector, 'rpn_head', None)
        two_stage = getattr(detector, 'roi_head', None) is not None
        return [cls('rpn')] if two_stage and isinstance(head, BaseDenseHead) else []

    def head(self, detector: BaseModel) -> BaseModule:
        """Return the head."""
        return detector.rpn_head


class DenseMaps:
    """The outputs of a dense head: places along H, W and priors of all levels.

    Attributes:
        cls: Per level (N, H * W * A, C).
        quality: Per level (N, H * W * A), or None.
        bbox: Per level (N, H * W * A, 4 or 4 * bins), or None.
        priors: A of every level.
        sizes: (H, W) of every level.

    Raises:
        TypeError: If the outputs do not begin with class maps.
    """

    def __init__(self, head: BaseModule, outputs: Sequence[Any]) -> None:
        classes = getattr(head, 'cls_out_channels', None)
        maps = outputs[0]
        if (
            classes is None
            or not hasattr(head, 'use_sigmoid_cls')
            or not isinstance(maps, (list, tuple))
            or any(m.dim() != 4 or m.shape[1] % classes for m in maps)
        ):
            raise TypeError(
                f'{type(head).__name__} does not return class maps of '
                f'cls_out_channels, as the heads of RetinaNet, FCOS, ATSS, GFL, '
                f'YOLOX, RTMDet and RPN do, so they cannot be distilled. {PLAIN_TERMS}'
            )
        self.head = head
        self.softmax = not head.use_sigmoid_cls
        self.sizes = [map_size(level) for level in maps]
        self.priors = [level.shape[1] // classes for level in maps]
        self.cls = [_columns(level, classes) for level in maps]
        self.bbox = self._find(outputs[1:2], self._box_columns())
        if self.bbox is None:
            self.bbox = self._find(outputs[1:2], 4)
        quality = self._find(outputs[2:3], 1)
        self.quality = quality and [level.squeeze(-1) for level in quality]

    def _box_columns(self) -> int:
        return 4 * (getattr(self.head, 'reg_max', 0) + 1)

    def _find(self, candidates: Sequence[Any], columns: int) -> Optional[List[Tensor]]:
        """Return the maps if they have so many columns a prior, else None."""
        for maps in candidates:
            if all(
                isinstance(level, Tensor) and level.shape[1] == priors * columns
                for level, priors in zip(maps, self.priors)
            ):
                return [_columns(level, columns) for level in maps]
        return None

    @property
    def cls_form(self) -> str:
        """Return the form of the class logits."""
        return 'softmax' if self.softmax else sigmoid_form(self.head)

    @property
    def bbox_form(self) -> str:
        """Return the form of the boxes."""
        from mmdet.models.task_modules.coders import DistancePointBBoxCoder

        if self.bbox is not None and self.bbox[0].shape[-1] > 4:
            return 'distribution'
        coder = getattr(self.head, 'bbox_coder', None)
        return 'distance' if isinstance(coder, DistancePointBBoxCoder) else 'offset'

    def confidence_weight(self) -> List[Tensor]:
        """Return the squared confidence per level (N, H * W * A)."""
        qualities: Sequence[Optional[Tensor]] = self.quality or [None] * len(self.cls)
        return [
            confidence_weight(cls, quality, self.softmax)
            for cls, quality in zip(self.cls, qualities)
        ]

    def in_boxes(self, data_samples: Sequence[Any]) -> Tensor:
        """Return which places of all levels lie in ground-truth boxes, (M,)."""
        return join(
            [
                cells_in_boxes(data_samples, size)
                .flatten(1)
                .repeat_interleave(priors, dim=1)
                for size, priors in zip(self.sizes, self.priors)
            ]
        )


def cells_in_boxes(data_samples: Sequence[Any], size: Tuple[int, int]) -> Tensor:
    """Return which cells (N, H, W) of a map lie in ground-truth boxes."""
    boxes = [sample.gt_instances.bboxes for sample in data_samples]
    boxes = [getattr(box, 'tensor', box) for box in boxes]
    height, width = data_samples[0].batch_input_shape
    return inside_boxes(boxes, (height, width), size)


def join(levels: Sequence[Tensor]) -> Tensor:
    """Join per-level (N, P, ...) to (M, ...)."""
    return torch.cat([*levels], dim=1).flatten(0, 1)


def sigmoid_form(head: BaseModule) -> str:
    """Return the form of class logits that a head turns into scores by a sigmoid."""
    from mmdet.models.losses import QualityFocalLoss

    return 'quality' if isinstance(head.loss_cls, QualityFocalLoss) else 'sigmoid'


def _columns(level: Tensor, columns: int) -> Tensor:
    """Return a map (N, A * columns, H, W) as (N, H * W * A, columns)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, columns)
