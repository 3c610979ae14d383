"""Semantic segmentation: the models of mmsegmentation."""

from copy import deepcopy
from typing import Any, Dict, List, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.label_guidance import LabelGuidance, draw_label_maps
from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass, map_size
from frskd_mm.utils.recorder import Target, shadow, unshadow

from .base import RewiringError, Source, Task, rewire, sample_name
from .parts import check_parts
from .readers.mask_query import (
    classifies_masks,
    query_classes,
    query_masks,
    query_targets,
)


class SegmentationTask(Task):
    """Reads ``EncoderDecoder`` and ``CascadeEncoderDecoder`` of mmseg.

    The twin is the decode head (all stages of a cascade), and the neck where
    the backbone is refined. Auxiliary heads are the student's alone. Soft
    labels compare the logits that the decode head returns, before they are
    upsampled to the labels; of a cascade those of the last stage, which is
    the one that predicts. A ``PointHead`` scores other points in every pass,
    so the stage before it is compared instead.
    """

    input_size = (128, 128)

    def twin_cfg(
        self,
        student_cfg: ConfigDict,
        source: str,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
    ) -> ConfigDict:
        """Rewire the neck if there is one to rebuild, else the decode heads."""
        cfg = deepcopy(student_cfg)
        for key in ('data_preprocessor', 'pretrained', 'init_cfg', 'auxiliary_head'):
            cfg.pop(key, None)
        cfg.backbone = dict(type='frskd_mm.PassThrough')
        if source == 'neck':
            cfg.pop('neck')
        if list(in_channels) == list(out_channels):
            return cfg
        if cfg.get('neck') is not None:
            if 'in_channels' not in cfg.neck:
                raise RewiringError(
                    f'The neck {cfg.neck.type} names no in_channels that could be '
                    'set to the refined ones.'
                )
            rewire(cfg.neck, in_channels, out_channels)
            return cfg
        for head in _head_cfgs(cfg):
            rewire(head, in_channels, out_channels)
            # DeepLabV3+ reads the finest level besides.
            if head.get('c1_in_channels'):
                head.c1_in_channels = out_channels[0]
        return cfg

    def levels_read(
        self, student_cfg: ConfigDict, source: str, num_levels: int
    ) -> List[int]:
        """Return the levels that the decode heads read; all with a neck."""
        if source == 'backbone' and student_cfg.get('neck') is not None:
            return list(range(num_levels))
        indices: List[int] = []
        for head in _head_cfgs(student_cfg):
            reads = head.get('in_channels')
            every = range(len(reads)) if isinstance(reads, (list, tuple)) else -1
            index = head.get('in_index', every)
            indices += [index] if isinstance(index, int) else index
            # DeepLabV3+ reads the finest level besides.
            indices += [0] if head.get('c1_in_channels') else []
        return sorted({index % num_levels for index in indices})

    def check_student(self, student: BaseModel) -> None:
        """Require a backbone and a decode head."""
        check_parts(student, 'decode_head')

    def check_outputs(self, student: BaseModel) -> None:
        """Refuse heads without class scores, such as those of depth."""
        head = _compared_head(student)
        if isinstance(student, _depth_estimators()):
            raise TypeError(
                f'{type(student).__name__} estimates depth: its {type(head).__name__} '
                'gives no scores of classes whose soft labels could be compared. '
                'Distil its features alone: soft_label=dict(loss_weight=0) in the '
                'distiller.'
            )

    def output_targets(self, model: BaseModel) -> Dict[str, Target]:
        """Soft labels compare logits (N, C, H, W), or masks, of one decode head."""
        head = _compared_head(model)
        if classifies_masks(head):
            return query_targets(head)
        return {'logits': (head, 'forward')}

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> List[SoftLabels]:
        """Compare the logits pixel by pixel.

        Heads that return several logit maps in training are compared map by map
        and averaged. Of MaskFormer and Mask2Former the classes and the masks of
        the queries that are matched to the same region are compared.
        """
        head = _compared_head(student.model)
        if classifies_masks(head):
            number = len(data_samples)
            return [
                query_classes(student, teacher, number),
                query_masks(student, teacher, number),
            ]
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples])
        maps = list(
            zip(_logit_maps(head, student.logits), _logit_maps(head, teacher.logits))
        )
        return [
            SoftLabels(
                *pair,
                labels=labels,
                ignore_index=head.ignore_index,
                align_corners=head.align_corners,
                share=1.0 / len(maps),
                cls_form=_form(head),
            )
            for pair in maps
        ]

    def num_drawn_maps(self, student: BaseModel, identity: bool) -> int:
        """Return the number of classes, or 1."""
        return _num_labels(_compared_head(student)) if identity else 1

    def draw_labels(
        self,
        student: BaseModel,
        data_samples: Sequence[Any],
        feats: Sequence[Tensor],
        guidance: LabelGuidance,
    ) -> List[Tensor]:
        """Draw the label maps, see :func:`draw_label_maps`."""
        for sample in data_samples:
            if 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'{sample_name(sample)} has no label map (gt_sem_seg) that could '
                    'guide the self-teacher. Add LoadAnnotations to the training '
                    'pipeline, or remove guidance from the distiller.'
                )
        head = _compared_head(student)
        return draw_label_maps(
            torch.stack([sample.gt_sem_seg.data[0] for sample in data_samples]),
            _num_labels(head),
            head.ignore_index,
            [map_size(feat) for feat in feats],
            guidance.drop,
            guidance.identity,
        )

    def predict(
        self,
        student: BaseModel,
        source: Source,
        self_teacher: BaseModule,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Any:
        """Predict with the self-teacher, whole or sliding as the student does.

        mmseg slides over images, so what is exchanged is ``encode_decode``,
        which turns one window into logits.
        """

        def encode_decode(window: Tensor, batch_img_metas: List[dict]) -> Tensor:
            feats = self.extract_feats(student, source, window)
            refined = self_teacher.refine(feats)
            return self_teacher.twin.encode_decode(refined, batch_img_metas)

        shadow(student, 'encode_decode', encode_decode)
        try:
            return type(student).predict(student, inputs, data_samples)
        finally:
            unshadow(student, 'encode_decode')

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Require 0 <= label < num_classes, or the ignored label."""
        head = _compared_head(student)
        for sample in data_samples:
            if 'gt_sem_seg' not in sample:
                continue
            labels = sample.gt_sem_seg.data
            bad = (labels < 0) | (labels >= _num_labels(head))
            if head.ignore_index is not None:
                bad &= labels != head.ignore_index
            if bad.any():
                raise ValueError(
                    f'Labels {labels[bad].unique().tolist()[:10]} in '
                    f'{sample.get("seg_map_path", sample_name(sample))} are '
                    f'out of range for num_classes={head.num_classes} and '
                    f'ignore_index={head.ignore_index} of the decode head. Set '
                    'num_classes in student.decode_head to the number of classes '
                    'of the dataset, or reduce_zero_label=True in the dataset and '
                    'in LoadAnnotations if its label 0 means "no class".'
                )


def _form(head: nn.Module) -> str:
    """Return what a head's loss takes its several logits a pixel for."""
    loss = head.loss_decode
    loss = loss[0] if isinstance(loss, nn.ModuleList) else loss
    several = getattr(head, 'out_channels', 1) > 1
    return 'sigmoid' if several and getattr(loss, 'use_sigmoid', False) else 'softmax'


def _depth_estimators() -> tuple:
    """Return the classes of mmseg that estimate depth, none in old versions."""
    from mmseg.models import segmentors

    kind = getattr(segmentors, 'DepthEstimator', None)
    return () if kind is None else (kind,)


def _head_cfgs(student_cfg: ConfigDict) -> List[ConfigDict]:
    """Return the configs of the decode heads that read feature maps."""
    heads = student_cfg.decode_head
    heads = heads if isinstance(heads, (list, tuple)) else [heads]
    # K-Net's head wraps the head that reads the maps.
    return [head.get('kernel_generate_head', head) for head in heads]


def _compared_head(model: BaseModel) -> BaseModule:
    """Return the last decode head with logits on a fixed grid."""
    from mmseg.models.decode_heads import PointHead

    head = model.decode_head
    if not isinstance(head, nn.ModuleList):
        return head
    return [stage for stage in head if not isinstance(stage, PointHead)][-1]


def _num_labels(head: BaseModule) -> int:
    """Return the number of labels; a head with one logit tells two apart."""
    return max(2, head.num_classes) if head.out_channels == 1 else head.num_classes


def _logit_maps(head: BaseModule, output: Any) -> List[Tensor]:
    """Return the (N, C, H, W) class maps among a decode head's outputs.

    Raises:
        ValueError: If there is none, as in heads that classify masks.
    """
    outputs = [output] if isinstance(output, Tensor) else list(output)
    maps = [
        out
        for out in outputs
        if isinstance(out, Tensor)
        and out.dim() == 4
        and out.shape[1] == head.out_channels
    ]
    if not maps:
        raise ValueError(
            f'{type(head).__name__} gives no logits per pixel and class, so soft '
            'labels cannot be compared. Distil its features alone: '
            'soft_label=dict(loss_weight=0) in the distiller.'
        )
    if head.out_channels == 1:
        # A sigmoid z is the softmax of (0, z).
        maps = [torch.cat([torch.zeros_like(out), out], dim=1) for out in maps]
    return maps
