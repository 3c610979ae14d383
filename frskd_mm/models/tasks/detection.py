"""Detection and instance segmentation: the models of mmdetection."""

from copy import deepcopy
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseModule
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from frskd_mm.models.losses.det_soft_label_loss import SoftLabels
from frskd_mm.models.losses.foreground import confidence_weight, inside_boxes
from frskd_mm.utils.recorder import Recorder, Replayer, Target

from .base import Task, rewire, sample_name

# Names of records. A multi-stage head has one record a stage: 'roi0', 'roi1'.
DENSE, RPN, ROI, SAMPLES, MASK = 'dense', 'rpn', 'roi', 'samples', 'mask'
QUERIES, MATCHES = 'queries', 'matches'

PLAIN_TERMS = (
    'Set loss_weight=0 in the soft_label of the distiller to distil its features alone.'
)


class DetectionTask(Task):
    """Reads the detectors of mmdetection.

    What is compared, by the kind of detector:

    * one-stage: the dense maps of ``bbox_head``;
    * two-stage and cascades: the dense maps of ``rpn_head``, and class
      logits, boxes and masks of the *student's* sampled proposals, which the
      twin scores instead of sampling its own;
    * DETR family: the queries that student and twin match to the same
      ground-truth box. Query slots mean nothing across two transformers, so
      others cannot be paired.
    """

    input_size = (128, 128)

    def copies(self, data_samples: Sequence[Any]) -> Sequence[Any]:
        """Copy the annotations but not their tensors.

        RTMDet-Ins exchanges the masks in ``gt_instances``, for example.
        """
        return [_shallow_copy(sample) for sample in data_samples]

    def default_source(self, student: BaseModel) -> str:
        """The neck, whose maps the heads read, where there is one."""
        return 'neck' if student.with_neck else 'backbone'

    def twin_cfg(
        self,
        student_cfg: ConfigDict,
        source: str,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
    ) -> ConfigDict:
        """Rewire the neck, or with source='neck' every head behind it."""
        cfg = deepcopy(student_cfg)
        for key in ('data_preprocessor', 'pretrained', 'init_cfg'):
            cfg.pop(key, None)
        cfg.backbone = dict(type='frskd_mm.PassThrough')
        if source == 'backbone' and cfg.get('neck'):
            first = cfg.neck[0] if isinstance(cfg.neck, list) else cfg.neck
            rewire(first, in_channels, out_channels)
        else:
            cfg.pop('neck', None)
            cfg.neck = None
            if list(in_channels) != list(out_channels):
                _rewire_heads(cfg, in_channels, out_channels)
        return cfg

    def output_targets(self, model: BaseModel) -> Dict[str, Target]:
        """Return what is recorded of a detector; see the class."""
        if _is_two_stage(model):
            targets: Dict[str, Target] = {}
            if model.with_rpn:
                targets[RPN] = (model.rpn_head, 'forward')
            for stage, (head, sampler, mask_head) in enumerate(_stages(model.roi_head)):
                targets[f'{ROI}{stage}'] = (head, 'forward')
                targets[f'{SAMPLES}{stage}'] = (sampler, 'sample')
                if mask_head is not None:
                    targets[f'{MASK}{stage}'] = (mask_head, 'forward')
            return targets
        if _is_detr(model):
            head = model.bbox_head
            return {QUERIES: (head, 'forward'), MATCHES: (head.assigner, 'assign')}
        head = getattr(model, 'bbox_head', None)
        return {} if head is None else {DENSE: (head, 'forward')}

    def record_twin(self, twin: BaseModel, student_outputs: Recorder) -> Recorder:
        """Return a recorder under which the twin scores the student's proposals."""
        targets = self.output_targets(twin)
        samples = {
            name: student_outputs.outputs[name]
            for name in targets
            if name.startswith(SAMPLES)
        }
        return Replayer(targets, samples)

    def soft_label_loss(
        self,
        loss: nn.Module,
        student: BaseModel,
        student_outputs: Recorder,
        teacher_outputs: Recorder,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Compare the outputs of all heads."""
        if not hasattr(loss, 'foreground'):
            raise TypeError(
                f'Detectors need frskd_mm.DetSoftLabelLoss as the soft_label of the '
                f'distiller, got {type(loss).__name__}.'
            )
        foreground: Any = loss.foreground
        heads: List[SoftLabels] = []
        for name in student_outputs.targets:
            outputs = (student_outputs, teacher_outputs)
            if name in (DENSE, RPN):
                heads.append(_dense_labels(name, outputs, foreground, data_samples))
            elif name.startswith(ROI):
                heads.append(_roi_labels(name[len(ROI) :], outputs))
            elif name.startswith(MASK):
                heads.append(_mask_labels(name[len(MASK) :], outputs))
            elif name == QUERIES:
                heads.append(_query_labels(outputs, data_samples))
        if not heads:
            raise TypeError(
                f'{student.student_class.__name__} has neither a bbox_head nor an '
                f'roi_head, whose outputs could be distilled. {PLAIN_TERMS}'
            )
        return loss(heads)

    def apply_feature_loss(
        self,
        loss: nn.Module,
        student_feats: Sequence[Tensor],
        teacher_feats: Sequence[Tensor],
        teacher_outputs: Recorder,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Apply the loss, with weights on positions if it asks for them."""
        foreground = getattr(loss, 'foreground', None)
        if foreground is None:
            return loss(student_feats, teacher_feats)
        sizes = [_size(feat) for feat in teacher_feats]
        if foreground == 'boxes':
            weights = [_inside(data_samples, size).float() for size in sizes]
        else:
            weights = _confidence_maps(teacher_outputs, sizes)
        return loss(student_feats, teacher_feats, weights)

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Require 0 <= label < num_classes."""
        head = getattr(student, 'bbox_head', None)
        if _is_two_stage(student):
            head = next(_stages(student.roi_head))[0]
        num_classes = getattr(head, 'num_classes', None)
        if num_classes is None:
            return
        for sample in data_samples:
            labels = sample.gt_instances.labels
            if len(labels) and not ((labels >= 0) & (labels < num_classes)).all():
                raise ValueError(
                    f'Labels {labels.unique().tolist()} of image '
                    f'{sample_name(sample)} are out of '
                    f'range for num_classes={num_classes} of the head. Set it in '
                    'every head of the student to the number of classes of the data '
                    'set, and the classes in the metainfo of the data set.'
                )


def _is_two_stage(model: BaseModel) -> bool:
    return getattr(model, 'roi_head', None) is not None


def _is_detr(model: BaseModel) -> bool:
    return all(hasattr(model, part) for part in ('bbox_head', 'encoder', 'decoder'))


def _stages(
    roi_head: BaseModule,
) -> Iterator[Tuple[BaseModule, Any, Optional[BaseModule]]]:
    """Yield box head, sampler and mask head of every stage of an RoI head."""

    def stages(part: Any) -> list:
        return list(part) if isinstance(part, (list, nn.ModuleList)) else [part]

    heads = stages(roi_head.bbox_head)
    samplers = stages(roi_head.bbox_sampler)
    masks = stages(roi_head.mask_head) if roi_head.with_mask else [None] * len(heads)
    return zip(heads, samplers, masks)


def _rewire_heads(
    cfg: ConfigDict, in_channels: Sequence[int], out_channels: Sequence[int]
) -> None:
    """Let all heads read ``out_channels`` instead of ``in_channels``, in place.

    Raises:
        ValueError: If the heads cannot read these channels.
    """
    keep = (
        'Give the refined maps the channels of the source: '
        "neck=dict(type='frskd_mm.BiFPNc', width=1) in the distiller."
    )
    if 'decoder' in cfg:
        raise ValueError(
            f'The transformer of {cfg.type} is {in_channels[0]} channels wide, but '
            f'the refined maps have {list(out_channels)}. {keep}'
        )
    if len(set(in_channels)) > 1 or len(set(out_channels)) > 1:
        raise ValueError(
            f'The heads of {cfg.type} read maps of {list(in_channels)} channels, '
            f'and can be rewired only from one width to another, not to '
            f'{list(out_channels)}. {keep}'
        )
    before, after = in_channels[0], out_channels[0]
    readers = [
        (cfg[name], 'in_channels')
        for name in ('rpn_head', 'bbox_head', 'mask_head')
        if cfg.get(name) and 'in_channels' in cfg[name]
    ]
    roi_head = cfg.get('roi_head') or {}
    if roi_head.get('shared_head'):
        raise ValueError(f'The shared_head of {cfg.type} cannot be rewired. {keep}')
    for name, part in roi_head.items():
        key = 'out_channels' if name.endswith('roi_extractor') else 'in_channels'
        stages = part if isinstance(part, list) else [part]
        readers += [(s, key) for s in stages if isinstance(s, dict) and key in s]
    for reader, key in readers:
        if reader[key] != before:
            raise ValueError(
                f'{reader.get("type")} has {key}={reader[key]} where the feature '
                f'source gives {before}, so it cannot be rewired to {after}. {keep}'
            )
        reader[key] = after


def _padded_size(data_samples: Sequence[Any]) -> Tuple[int, int]:
    """Return height and width of the padded images."""
    height, width = data_samples[0].batch_input_shape
    return height, width


def _size(level: Tensor) -> Tuple[int, int]:
    """Return height and width of a map (N, C, H, W)."""
    height, width = level.shape[2:]
    return height, width


def _inside(data_samples: Sequence[Any], map_size: Tuple[int, int]) -> Tensor:
    """Return which cells (N, H, W) of a map lie in ground-truth boxes."""
    boxes = [sample.gt_instances.bboxes for sample in data_samples]
    boxes = [getattr(box, 'tensor', box) for box in boxes]
    return inside_boxes(boxes, _padded_size(data_samples), map_size)


class _DenseMaps:
    """The outputs of a dense head: places along H, W and priors of all levels.

    Attributes:
        cls: Per level (N, H * W * A, C).
        quality: Per level (N, H * W * A), or None.
        bbox: Per level (N, H * W * A, 4 or 4 * bins), or None.
        priors: A of every level.
        sizes: (H, W) of every level.
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
        self.sizes = [_size(level) for level in maps]
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
        if self.softmax:
            return 'softmax'
        is_quality = type(self.head.loss_cls).__name__ == 'QualityFocalLoss'
        return 'quality' if is_quality else 'sigmoid'

    @property
    def bbox_form(self) -> str:
        """Return the form of the boxes."""
        if self.bbox is not None and self.bbox[0].shape[-1] > 4:
            return 'distribution'
        coder = type(getattr(self.head, 'bbox_coder', None)).__name__
        return 'distance' if coder == 'DistancePointBBoxCoder' else 'offset'

    def confidence_weight(self) -> List[Tensor]:
        """Return the squared confidence per level (N, H * W * A)."""
        qualities: Sequence[Optional[Tensor]] = self.quality or [None] * len(self.cls)
        return [
            confidence_weight(cls, quality, self.softmax)
            for cls, quality in zip(self.cls, qualities)
        ]


def _columns(level: Tensor, columns: int) -> Tensor:
    """Return a map (N, A * columns, H, W) as (N, H * W * A, columns)."""
    return level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, columns)


def _places(levels: Sequence[Tensor]) -> Tensor:
    """Join per-level (N, P, ...) to (M, ...)."""
    return torch.cat([*levels], dim=1).flatten(0, 1)


def _dense_labels(
    name: str,
    outputs: Tuple[Recorder, Recorder],
    foreground: Optional[str],
    data_samples: Sequence[Any],
) -> SoftLabels:
    student, teacher = (
        _DenseMaps(record.targets[name][0], record.last(name)) for record in outputs
    )
    if foreground == 'boxes':
        weight = _places(
            [
                _inside(data_samples, size)
                .flatten(1)
                .repeat_interleave(priors, dim=1)
                .float()
                for size, priors in zip(teacher.sizes, teacher.priors)
            ]
        )
    else:
        weight = _places(teacher.confidence_weight())
    labels = SoftLabels(
        student_cls=_places(student.cls),
        teacher_cls=_places(teacher.cls),
        cls_form=teacher.cls_form,
        student_quality=None if student.quality is None else _places(student.quality),
        teacher_quality=None if teacher.quality is None else _places(teacher.quality),
        weight=weight if foreground else None,
    )
    if student.bbox is None or teacher.bbox is None:
        return labels
    boxes = [_places(student.bbox), _places(teacher.bbox)]
    if teacher.bbox_form == 'distribution':
        boxes = [box.unflatten(1, (4, -1)) for box in boxes]
    return labels._replace(
        student_bbox=boxes[0],
        teacher_bbox=boxes[1],
        bbox_form=teacher.bbox_form,
        bbox_weight=weight,
    )


def _confidence_maps(
    outputs: Recorder, sizes: Sequence[Tuple[int, int]]
) -> List[Tensor]:
    """Return the dense head's confidence per level (N, H, W)."""
    name = RPN if RPN in outputs.targets else DENSE
    maps = (
        _DenseMaps(outputs.targets[name][0], outputs.last(name))
        if name in outputs.targets
        else None
    )
    if maps is None or maps.sizes != list(sizes):
        raise ValueError(
            "foreground='confidence' needs a dense head with one class map a "
            f'feature map, but the feature maps have sizes {list(sizes)} and the '
            f"class maps {maps and maps.sizes}. Set foreground='boxes' in the "
            'feature_loss of the distiller.'
        )
    return [
        level.unflatten(1, (*size, -1)).amax(dim=-1)
        for level, size in zip(maps.confidence_weight(), maps.sizes)
    ]


def _sampled_labels(samples: Sequence[Any]) -> Tuple[Tensor, Tensor]:
    """Return ground-truth classes and positives of sampled proposals, both (M,).

    The proposals of an image are its positives, then its negatives.
    """
    labels, positives = [], []
    for sample in samples:
        found = sample.pos_gt_labels
        negatives = found.new_zeros(len(sample.neg_priors))
        labels += [found, negatives]
        positives += [torch.ones_like(found), negatives]
    return torch.cat(labels), torch.cat(positives)


def _of_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Pick the true class's part of (M, C or 1, ...)."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs[torch.arange(len(labels), device=labels.device), labels]


def _roi_labels(stage: str, outputs: Tuple[Recorder, Recorder]) -> SoftLabels:
    student_record, teacher_record = outputs
    head = teacher_record.targets[ROI + stage][0]
    (student_cls, student_bbox), (teacher_cls, teacher_bbox) = (
        record.last(ROI + stage)[:2] for record in outputs
    )
    if student_cls is None or student_cls.dim() != 2:
        raise TypeError(
            f'{type(head).__name__} does not return class logits of proposals, so '
            f'they cannot be distilled. {PLAIN_TERMS}'
        )
    softmax = not getattr(head.loss_cls, 'use_sigmoid', False)
    result = SoftLabels(
        student_cls=student_cls,
        teacher_cls=teacher_cls,
        cls_form='softmax' if softmax else 'sigmoid',
    )
    if student_bbox is None:
        return result
    labels, positives = _sampled_labels(student_record.outputs[SAMPLES + stage])
    return result._replace(
        student_bbox=_of_class(student_bbox.unflatten(1, (-1, 4)), labels),
        teacher_bbox=_of_class(teacher_bbox.unflatten(1, (-1, 4)), labels),
        bbox_form='offset',
        bbox_weight=positives.float(),
    )


def _mask_labels(stage: str, outputs: Tuple[Recorder, Recorder]) -> SoftLabels:
    """Compare the true class's masks of the positives, every pixel a place."""
    samples = outputs[0].outputs[SAMPLES + stage]
    labels = torch.cat([sample.pos_gt_labels for sample in samples])
    student, teacher = (
        _of_class(record.last(MASK + stage), labels).reshape(-1, 1)
        for record in outputs
    )
    return SoftLabels(student_cls=student, teacher_cls=teacher, cls_form='sigmoid')


def _query_labels(
    outputs: Tuple[Recorder, Recorder], data_samples: Sequence[Any]
) -> SoftLabels:
    """Compare the queries matched to the same box, in every decoder layer."""
    head = outputs[1].targets[QUERIES][0]
    (student_cls, student_bbox), (teacher_cls, teacher_bbox) = (
        record.last(QUERIES)[:2] for record in outputs
    )
    student_matches, teacher_matches = (record.outputs[MATCHES] for record in outputs)
    num_images = len(data_samples)
    pairs = []
    # Matching runs by layer, then by image; encoder proposals come after.
    for call in range(len(student_cls) * num_images):
        layer, image = divmod(call, num_images)
        student_query, teacher_query = (
            _query_of_box(matches[call].gt_inds, matches[call].num_gts)
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
    student_cls, teacher_cls, student_bbox, teacher_bbox = map(torch.cat, zip(*pairs))
    softmax = not head.loss_cls.use_sigmoid
    is_quality = type(head.loss_cls).__name__ == 'QualityFocalLoss'
    return SoftLabels(
        student_cls=student_cls,
        teacher_cls=teacher_cls,
        cls_form='softmax' if softmax else 'quality' if is_quality else 'sigmoid',
        student_bbox=student_bbox,
        teacher_bbox=teacher_bbox,
        bbox_form='offset',
    )


def _query_of_box(gt_inds: Tensor, num_boxes: int) -> Tensor:
    """Return the query matched to every box (G,), -1 for none.

    Args:
        gt_inds: 1-based box of every query, 0 for none (Q,).
        num_boxes: G.
    """
    query = gt_inds.new_full((num_boxes,), -1)
    matched = (gt_inds > 0).nonzero().squeeze(1)
    query[gt_inds[matched] - 1] = matched
    return query


def _shallow_copy(element: BaseDataElement) -> BaseDataElement:
    """Copy a data element and those in it; they share their tensors."""
    copy = element.new()
    for name, value in copy.items():
        if isinstance(value, BaseDataElement):
            setattr(copy, name, _shallow_copy(value))
    return copy
