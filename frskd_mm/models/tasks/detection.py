"""Detection and instance segmentation: the models of mmdetection."""

from copy import deepcopy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from frskd_mm.models.label_guidance import LabelGuidance, jitter_boxes
from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass, map_size
from frskd_mm.utils.recorder import Target, bind_forward
from frskd_mm.utils.scope import type_name

from .base import RewiringError, Task, rewire, sample_name
from .parts import check_parts
from .readers.base import PLAIN_TERMS, HeadReader, find_readers
from .readers.dense import DenseReader, cells_in_boxes
from .readers.proposal import roi_stages

#: Parts that score a source's features.
HEADS = ('bbox_head', 'rpn_head', 'roi_head', 'mask_head', 'panoptic_head')
#: Parts of detectors whose rest cannot run a second time -> why, and what to do.
UNFIT = {
    'language_model': 'reads texts besides images, which a twin on feature maps is '
    'not given. Distil a detector of images alone.',
    'teacher_model': 'is distilled already, by a teacher of its own. Distil its '
    'student, a plain detector.',
    'bbox_head_refine': 'refines its boxes in several heads, each on features that it '
    'gathers at boxes of its own. Distil a detector with one head behind its features.',
    'rotate_crop': 'turns and crops its images in its loss, which a twin on feature '
    'maps is not given. Distil a detector that is trained on images as they are.',
    'test_branch_idx': 'runs every image through several branches of its backbone, so '
    'its features and labels do not pair up in a twin. Distil a Faster R-CNN.',
}


class DetectionTask(Task):
    """Reads the detectors of mmdetection.

    What is compared is up to the readers of their heads, one for each kind: the
    dense maps of one-stage detectors and RPNs, the student's sampled proposals
    and their masks, which the twin scores instead of sampling its own, and the
    matched queries of the DETR family. See :class:`HeadReader`.
    """

    input_size = (128, 128)
    #: How many convolutions of a head's branches lie before the cut; 0: none is cut.
    cross_head = 0

    def copies(self, data_samples: Sequence[Any]) -> Sequence[Any]:
        """Copy the annotations but not their tensors.

        RTMDet-Ins exchanges the masks in ``gt_instances``, for example.
        """
        return [_shallow_copy(sample) for sample in data_samples]

    def check_student(self, student: BaseModel) -> None:
        """Require a detector of images alone, with a backbone and a head."""
        from mmdet.models.detectors import BaseDetector

        name = type(student).__name__
        for part, reason in UNFIT.items():
            if hasattr(student, part):
                raise TypeError(f'{name} {reason}')
        check_parts(student, *HEADS)
        if not isinstance(student, BaseDetector):
            raise TypeError(f'{name} is no detector of mmdetection. Distil a detector.')

    def check_outputs(self, student: BaseModel) -> None:
        """Require that a reader knows each head, and can compare what it returns.

        An RPN whose proposals another head scores may be left out.
        """
        readers = find_readers(student)
        for reader in readers:
            reader.check(student)
        for name, head in unread_heads(student, readers):
            raise TypeError(
                f'{type(student).__name__} has a {type(head).__name__} ({name}), whose '
                f'outputs no reader compares. {PLAIN_TERMS} Or register a HeadReader '
                'of your own in frskd_mm.registry.HEAD_READERS.'
            )
        if not readers:
            raise no_reader(student)

    def cut_heads(self, student: BaseModel, index: int) -> None:
        """Cut every head that is compared, see :class:`Task`."""
        self.cross_head = index
        for reader in self.readers(student):
            for module, _ in reader.targets(student).values():
                bind_forward(module)

    def readers(self, model: BaseModel) -> List[HeadReader]:
        """Return the readers of the heads, which cut them where that is wanted."""
        readers = find_readers(model)
        for reader in readers if self.cross_head else ():
            reader.cut_at(model, self.cross_head)
        return readers

    def check_teacher(self, teacher: BaseModel) -> None:
        """Refuse the family of Deformable DETR."""
        from mmdet.models.detectors import DeformableDETR

        if isinstance(teacher, DeformableDETR):
            raise TypeError(
                f'A {type(teacher).__name__} cannot be the teacher: teachers run in '
                'eval mode, in which it does not compute what its own loss compares. '
                'Use a teacher of another kind, or a method without a pretrained one, '
                'such as frskd.'
            )

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
        """Return what the readers of the heads need."""
        targets: Dict[str, Target] = {}
        for reader in self.readers(model):
            targets.update(reader.targets(model))
        return targets

    def replayed_targets(self, model: BaseModel) -> Sequence[str]:
        """Let the twin score the student's proposals."""
        readers = find_readers(model)
        return sorted({name for reader in readers for name in reader.replayed()})

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> List[SoftLabels]:
        """Compare the outputs of all heads, see :class:`Task`."""
        readers = self.readers(student.model)
        if not readers:
            raise no_reader(student.model)
        return [
            reader.soft_labels(student, teacher, data_samples) for reader in readers
        ]

    def position_weights(
        self,
        foreground: Optional[str],
        feats: Sequence[Tensor],
        teacher: Pass,
        data_samples: Sequence[Any],
    ) -> Optional[List[Tensor]]:
        """Weigh by ground-truth boxes or by the dense head's confidence."""
        sizes = [map_size(feat) for feat in feats]
        if foreground is None:
            return None
        if foreground == 'boxes':
            return [cells_in_boxes(data_samples, size).float() for size in sizes]
        readers = find_readers(teacher.model)
        maps = next(
            (r.maps(teacher) for r in readers if isinstance(r, DenseReader)), None
        )
        if maps is None or maps.sizes != sizes:
            raise ValueError(
                "foreground='confidence' needs a dense head with one class map a "
                f'feature map, but the feature maps have sizes {sizes} and the '
                f"class maps {maps and maps.sizes}. Set foreground='boxes' in the "
                'feature_loss of the distiller.'
            )
        return [
            level.unflatten(1, (*size, -1)).amax(dim=-1)
            for level, size in zip(maps.confidence_weight(), sizes)
        ]

    def num_drawn_maps(self, student: BaseModel, identity: bool) -> int:
        """Return the classes, if they are drawn, the region and four distances."""
        return (self._num_classes(student) or 0 if identity else 0) + 5

    def draw_labels(
        self,
        student: BaseModel,
        data_samples: Sequence[Any],
        feats: Sequence[Tensor],
        guidance: LabelGuidance,
    ) -> Any:
        """Draw the boxes, of rotated ones those around them.

        See ``LabelGuidance.draw_boxes``.
        """
        height, width = data_samples[0].batch_input_shape
        boxes, labels = [], []
        for sample in data_samples:
            if 'gt_instances' not in sample:
                raise ValueError(
                    f'{sample_name(sample)} has no boxes (gt_instances) that could '
                    'guide the self-teacher. Add LoadAnnotations to the training '
                    'pipeline, or remove guidance from the distiller.'
                )
            found = sample.gt_instances.bboxes
            if getattr(found, 'box_dim', 4) != 4:
                found = found.convert_to('hbox')
            found = getattr(found, 'tensor', found)
            kept = torch.rand(len(found), device=found.device) >= guidance.drop
            moved = jitter_boxes(found[kept], guidance.jitter, (height, width))
            boxes.append(moved)
            labels.append(sample.gt_instances.labels[kept])
        classes = self._num_classes(student) or 0 if guidance.identity else 0
        sizes = [map_size(feat) for feat in feats]
        return guidance.draw_boxes(boxes, labels, classes, (height, width), sizes)

    def num_box_classes(self, student: BaseModel) -> int:
        """Return the number of classes of the boxes; 1 where none is told apart."""
        return self._num_classes(student) or 1

    @staticmethod
    def _num_classes(student: BaseModel) -> Optional[int]:
        """Return how many classes a student tells apart; None if it does not."""
        from mmdet.models.detectors import RPN

        if isinstance(student, RPN):  # all boxes are objects to it
            return None
        stages = roi_stages(student)
        if stages:
            return stages[0].bbox_head.num_classes
        roi_head = getattr(student, 'roi_head', None)
        set_heads = getattr(roi_head, 'bbox_head', None)  # of Sparse R-CNN
        heads = [
            set_heads[0] if isinstance(set_heads, nn.ModuleList) else None,
            getattr(student, 'bbox_head', None),
            getattr(student, 'mask_head', None),  # of SOLO
            getattr(student, 'panoptic_head', None),  # of Mask2Former
        ]
        counts = [getattr(head, 'num_classes', None) for head in heads]
        return next((count for count in counts if count is not None), None)

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Require 0 <= label < num_classes."""
        num_classes = self._num_classes(student)
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


def no_reader(detector: BaseModel) -> TypeError:
    """Return the error of a detector without a head that can be compared."""
    kind = getattr(detector, 'student_class', type(detector))
    return TypeError(
        f'{kind.__name__} has no head that a reader knows, whose outputs could be '
        'distilled: no dense bbox_head or rpn_head, roi_head, mask_head or '
        f'panoptic_head, or DETR head. {PLAIN_TERMS} Or register a HeadReader of your '
        'own in frskd_mm.registry.HEAD_READERS.'
    )


def unread_heads(
    detector: BaseModel, readers: Sequence[HeadReader]
) -> List[Tuple[str, nn.Module]]:
    """Return the heads that predict and of which no reader reads anything.

    Args:
        detector: The student.
        readers: What was found for it.
    """
    owners = {
        id(owner)
        for reader in readers
        for owner, _ in reader.targets(detector).values()
    }
    names = ['bbox_head', 'query_head', 'roi_head', 'panoptic_head']
    if getattr(detector, 'bbox_head', None) is None:
        names.append('mask_head')  # beside boxes, masks may be left out
    heads = [(name, getattr(detector, name, None)) for name in names]
    heads = [  # of Co-DETR there are several of a kind
        (name, inner)
        for name, head in heads
        for inner in (head if isinstance(head, nn.ModuleList) else [head])
    ]
    return [
        (name, head)
        for name, head in heads
        if head is not None and not any(id(part) in owners for part in head.modules())
    ]


def _rewire_heads(
    cfg: ConfigDict, in_channels: Sequence[int], out_channels: Sequence[int]
) -> None:
    """Let all heads read ``out_channels`` instead of ``in_channels``, in place.

    Raises:
        RewiringError: If the heads cannot read these channels.
    """
    keep = (
        'Give the refined maps the channels of the source: '
        "neck=dict(type='frskd_mm.BiFPNc', width=1) in the distiller."
    )
    if 'decoder' in cfg:
        raise RewiringError(
            f'The transformer of {cfg.type} is {in_channels[0]} channels wide, but '
            f'the refined maps have {list(out_channels)}. {keep}'
        )
    if len(set(in_channels)) > 1 or len(set(out_channels)) > 1:
        raise RewiringError(
            f'The heads of {cfg.type} read maps of {list(in_channels)} channels, '
            f'and can be rewired only from one width to another, not to '
            f'{list(out_channels)}. {keep}'
        )
    if any(isinstance(cfg.get(name), list) for name in ('bbox_head', 'roi_head')):
        raise RewiringError(f'The several heads of {cfg.type} are not rewired. {keep}')
    roi_head = cfg.get('roi_head') or {}
    heads = [cfg.get(name) for name in ('rpn_head', 'bbox_head', 'mask_head')]
    as_wide = ('SparseRoIHead', 'HybridTaskCascadeRoIHead')
    if (
        'semantic_head' in (*cfg, *roi_head)
        or type_name(roi_head.get('type')).endswith(as_wide)
        or any(map(_reads_otherwise, [*heads, *roi_head.values()]))
    ):
        raise RewiringError(
            f'Parts of the heads of {cfg.type} are as wide as the maps. {keep}'
        )
    before, after = in_channels[0], out_channels[0]
    readers = [(one, 'in_channels') for one in heads if one and 'in_channels' in one]
    if roi_head.get('shared_head'):
        raise RewiringError(f'The shared_head of {cfg.type} cannot be rewired. {keep}')
    for name, part in roi_head.items():
        key = 'out_channels' if name.endswith('roi_extractor') else 'in_channels'
        stages = _listed(part)
        readers += [(s, key) for s in stages if isinstance(s, dict) and key in s]
    for reader, key in readers:
        if reader[key] != before:
            raise RewiringError(
                f'{reader.get("type")} has {key}={reader[key]} where the feature '
                f'source gives {before}, so it cannot be rewired to {after}. {keep}'
            )
        reader[key] = after


def _reads_otherwise(part: Any) -> bool:
    """Whether a head's config names the channels that it reads in other places."""
    return any(
        name in ('cls_in_channels', 'pre_cfg', 'post_cfg')
        or any(isinstance(v, dict) and 'in_channels' in v for v in _listed(value))
        for one in _listed(part)
        if isinstance(one, dict)
        for name, value in one.items()
    )


def _listed(part: Any) -> Sequence[Any]:
    """Return the stages of a part; it may have one."""
    return part if isinstance(part, (list, tuple)) else [part]


def _shallow_copy(element: BaseDataElement) -> BaseDataElement:
    """Copy a data element and those in it; they share their tensors."""
    copy = element.new()
    for name, value in copy.items():
        if isinstance(value, BaseDataElement):
            setattr(copy, name, _shallow_copy(value))
    return copy
