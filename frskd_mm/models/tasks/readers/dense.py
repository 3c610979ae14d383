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

from .base import PLAIN_TERMS, HeadReader, activated_logits, probability_logits
from .cross_head import CutHead

#: Columns of a box of four corners.
QUADRILATERAL = 8


@HEAD_READERS.register_module()
class DenseReader(HeadReader):
    """Reads the ``bbox_head`` of one-stage detectors.

    Class maps, box maps and maps of centerness or objectness are compared place by
    place and prior by prior.
    """

    #: How many convolutions of a branch lie before the cut; 0: the head is whole.
    cross_head = 0

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
        """Record the head's maps, and those within it where it is cut."""
        targets: Dict[str, Target] = {self.name: (self.head(detector), 'forward')}
        if self.cross_head:
            targets.update(self.cut(detector).targets)
        return targets

    def cut_at(self, detector: BaseModel, index: int) -> None:
        """Compare what the teacher's head makes of the student's maps within it."""
        self.cross_head = index
        self.cut(detector)

    def cut(self, detector: BaseModel) -> CutHead:
        """Return the head, cut at ``cross_head``."""
        return CutHead(self.name, self.head(detector), self.cross_head)

    def check(self, detector: BaseModel) -> None:
        """Refuse heads without class maps, such as CenterNet's and CornerNet's."""
        head = self.head(detector)
        if not has_class_maps(head):
            raise no_class_maps(head)

    def maps(self, model_pass: Pass) -> 'DenseMaps':
        """Return what the head gave in a pass.

        Raises:
            TypeError: If these are no class maps.
        """
        return self.as_maps(self.head(model_pass.model), model_pass.output(self.name))

    def as_maps(self, head: BaseModule, outputs: Sequence[Any]) -> 'DenseMaps':
        """Return what a head gave, by kind."""
        return DenseMaps(head, outputs)

    def crossed_maps(self, student: Pass, teacher: Pass) -> 'DenseMaps':
        """Return what the teacher's head makes of the student's maps within it."""
        outputs = self.cut(teacher.model).cross(student.outputs, teacher.outputs)
        return self.as_maps(self.head(teacher.model), outputs)

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare all places of all levels, see :class:`HeadReader`."""
        ours, theirs = self.maps(student), self.maps(teacher)
        if self.cross_head:
            ours = self.crossed_maps(student, teacher)
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
    """Reads the ``rpn_head`` of two-stage detectors, a dense head.

    One without class maps, such as that of Cascade RPN, is left out: what its
    proposals say is compared where they are scored.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for an ``rpn_head`` beside an ``roi_head``."""
        head = getattr(detector, 'rpn_head', None)
        two_stage = getattr(detector, 'roi_head', None) is not None
        return [cls('rpn')] if two_stage and has_class_maps(head) else []

    def head(self, detector: BaseModel) -> BaseModule:
        """Return the head."""
        return detector.rpn_head


@HEAD_READERS.register_module()
class YOLOV3Reader(DenseReader):
    """Reads the ``YOLOV3Head``, whose maps hold box, objectness and classes."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``bbox_head`` that is a ``YOLOV3Head``."""
        from mmdet.models.dense_heads import YOLOV3Head

        head = getattr(detector, 'bbox_head', None)
        return [cls('dense')] if isinstance(head, YOLOV3Head) else []

    def check(self, detector: BaseModel) -> None:
        """Take any."""
        return None

    def as_maps(self, head: BaseModule, outputs: Sequence[Any]) -> 'DenseMaps':
        """Return what a head gave, by kind."""
        return YOLOV3Maps(head, outputs)


@HEAD_READERS.register_module()
class GridReader(DenseReader):
    """Reads the SOLO family: the classes of the cells of its grids.

    Masks are left out: those of SOLOv2 are products of kernels and features that
    mean nothing across two heads, those of Decoupled SOLO of two maps.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``mask_head`` that is a ``SOLOHead``."""
        from mmdet.models.dense_heads import SOLOHead

        head = getattr(detector, 'mask_head', None)
        return [cls('cells')] if isinstance(head, SOLOHead) else []

    def head(self, detector: BaseModel) -> BaseModule:
        """Return the head."""
        return detector.mask_head

    def check(self, detector: BaseModel) -> None:
        """Take any."""
        return None

    def as_maps(self, head: BaseModule, outputs: Sequence[Any]) -> 'DenseMaps':
        """Return the maps of classes (N, C, S, S) that a head gave."""
        # Class maps of the grids come after those of the masks or kernels.
        maps = next(
            maps
            for maps in outputs
            if all(
                level.shape[1:] == (head.cls_out_channels, grid, grid)
                for level, grid in zip(maps, head.num_grids)
            )
        )
        return GridMaps(head, maps)


class DenseMaps:
    """The outputs of a dense head: places along H, W and priors of all levels.

    Attributes:
        cls: Per level (N, H * W * A, C).
        quality: Per level (N, H * W * A), or None.
        bbox: Per level (N, H * W * A, columns), or None: 4, more of rotated boxes,
            4 * bins of distributions.
        priors: A of every level.
        sizes: (H, W) of every level.

    Raises:
        TypeError: If the outputs do not begin with class maps.
    """

    def __init__(self, head: BaseModule, outputs: Sequence[Any]) -> None:
        if not has_class_maps(head):
            raise no_class_maps(head)
        classes, maps = head.cls_out_channels, outputs[0]
        if not isinstance(maps, (list, tuple)) or any(
            m.dim() != 4 or m.shape[1] % classes for m in maps
        ):
            raise no_class_maps(head)
        self.head = head
        self.softmax = not head.use_sigmoid_cls
        self.sizes = [map_size(level) for level in maps]
        self.priors = [level.shape[1] // classes for level in maps]
        self.cls = [self._class_logits(_columns(level, classes)) for level in maps]
        self.bbox = None
        if not _places_boxes_itself(head):
            self.bbox = self._find(outputs[1:2], self._box_columns())
            if self.bbox is None:
                self.bbox = self._find(outputs[1:2], 4)
        quality = self._find(outputs[2:3], 1)
        self.quality = quality and [level.squeeze(-1) for level in quality]

    def _class_logits(self, scores: Tensor) -> Tensor:
        """Return logits (N, H * W * A, C) of what the head gives."""
        from mmdet.models.dense_heads import TOODHead

        if isinstance(self.head, TOODHead):  # it returns probabilities
            return probability_logits(scores)
        loss_cls = getattr(self.head, 'loss_cls', None)  # SSD's head has none
        flat = activated_logits(loss_cls, scores.flatten(0, 1), self.cls_form)
        return flat.unflatten(0, scores.shape[:2])

    def _box_columns(self) -> int:
        # Rotated boxes have more than four.
        size = getattr(getattr(self.head, 'bbox_coder', None), 'encode_size', 4)
        return size * (getattr(self.head, 'reg_max', 0) + 1)

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

        coder = getattr(self.head, 'bbox_coder', None)
        bins = getattr(self.head, 'reg_max', 0) + 1
        if self.bbox is not None and bins > 1 and self.bbox[0].shape[-1] == 4 * bins:
            return 'distribution'
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


class YOLOV3Maps(DenseMaps):
    """The outputs of a ``YOLOV3Head``, as :class:`DenseMaps`."""

    def __init__(self, head: BaseModule, outputs: Sequence[Any]) -> None:
        self.head = head
        self.softmax = False
        self.sizes = [map_size(level) for level in outputs[0]]
        self.priors = [head.num_base_priors] * len(self.sizes)
        levels = [_columns(level, head.num_attrib) for level in outputs[0]]
        # The head trains the centre within the cell after a sigmoid.
        self.bbox = [
            torch.cat([level[..., :2].sigmoid(), level[..., 2:4]], dim=-1)
            for level in levels
        ]
        self.quality = [level[..., 4] for level in levels]
        self.cls = [level[..., 5:] for level in levels]


class GridMaps(DenseMaps):
    """The class maps of the SOLO family, as :class:`DenseMaps`."""

    def __init__(self, head: BaseModule, maps: Sequence[Tensor]) -> None:
        self.head = head
        self.softmax = not head.loss_cls.use_sigmoid
        self.sizes = [map_size(level) for level in maps]
        self.priors = [1] * len(self.sizes)
        self.cls = [_columns(level, head.cls_out_channels) for level in maps]
        self.bbox = self.quality = None


def has_class_maps(head: Any) -> bool:
    """Whether a dense head returns maps of so many class columns a prior."""
    from mmdet.models.dense_heads.base_dense_head import BaseDenseHead

    return (
        isinstance(head, BaseDenseHead)
        and hasattr(head, 'cls_out_channels')
        and hasattr(head, 'use_sigmoid_cls')
    )


def no_class_maps(head: BaseModule) -> TypeError:
    """Return the error of a head whose outputs do not begin with class maps."""
    return TypeError(
        f'{type(head).__name__} does not return class maps of '
        f'cls_out_channels, as the heads of RetinaNet, FCOS, ATSS, GFL, '
        f'YOLOX, RTMDet and RPN do, so they cannot be distilled. {PLAIN_TERMS}'
    )


def _places_boxes_itself(head: BaseModule) -> bool:
    """Whether offsets are from anchors that the head predicts, its own in each."""
    from mmdet.models.dense_heads import GuidedAnchorHead

    return isinstance(head, GuidedAnchorHead)


def cells_in_boxes(data_samples: Sequence[Any], size: Tuple[int, int]) -> Tensor:
    """Return which cells (N, H, W) of a map lie in ground-truth boxes."""
    boxes = [_boxes_of(sample) for sample in data_samples]
    height, width = data_samples[0].batch_input_shape
    return inside_boxes(boxes, (height, width), size)


def _boxes_of(data_sample: Any) -> Tensor:
    """Return ground-truth boxes (G, 4), or rotated ones (G, 5), of an image."""
    boxes = data_sample.gt_instances.bboxes
    if getattr(boxes, 'box_dim', None) == QUADRILATERAL:
        boxes = boxes.convert_to('rbox')
    return getattr(boxes, 'tensor', boxes)


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
