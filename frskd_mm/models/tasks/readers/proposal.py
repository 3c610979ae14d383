"""The box heads of two-stage detectors, which score sampled proposals."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.recorder import Target

from .base import PLAIN_TERMS, HeadReader


class Stage(NamedTuple):
    """One stage of an RoI head; most have a single one."""

    bbox_head: BaseModule
    sampler: Any
    mask_head: Optional[BaseModule]


def roi_stages(detector: BaseModel) -> List[Stage]:
    """Return the stages of a detector's RoI head, none without one."""
    from mmdet.models.roi_heads.base_roi_head import BaseRoIHead

    roi_head = getattr(detector, 'roi_head', None)
    if not isinstance(roi_head, BaseRoIHead):
        return []

    def stages(part: Any) -> list:
        return list(part) if isinstance(part, (list, nn.ModuleList)) else [part]

    heads = stages(roi_head.bbox_head)
    masks = stages(roi_head.mask_head) if roi_head.with_mask else [None] * len(heads)
    return list(map(Stage, heads, stages(roi_head.bbox_sampler), masks))


class StageReader(HeadReader):
    """Reads a head of one stage of an RoI head.

    The twin scores the student's sampled proposals instead of its own, so the
    outputs are of the same places.

    Args:
        name (str): The head's name.
        stage (int): Index of the stage.
    """

    def __init__(self, name: str, stage: int) -> None:
        super().__init__(name)
        self.stage = stage
        self.samples = f'samples{stage}'

    def replayed(self) -> Sequence[str]:
        """Let the twin take over the student's samples."""
        return [self.samples]

    def sample_labels(self, student: Pass) -> Tuple[Tensor, Tensor]:
        """Return ground-truth classes and positives of the samples, both (M,).

        The proposals of an image are its positives, then its negatives.
        """
        labels, positives = [], []
        for sample in student.outputs[self.samples]:
            found = sample.pos_gt_labels
            negatives = found.new_zeros(len(sample.neg_priors))
            labels += [found, negatives]
            positives += [torch.ones_like(found), negatives]
        return torch.cat(labels), torch.cat(positives)


@HEAD_READERS.register_module()
class ProposalReader(StageReader):
    """Reads the box heads: class logits and boxes of all sampled proposals."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for every stage."""
        return [cls(f'roi{i}', i) for i, _ in enumerate(roi_stages(detector))]

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the scored proposals and how they were sampled."""
        stage = roi_stages(detector)[self.stage]
        return {
            self.name: (stage.bbox_head, 'forward'),
            self.samples: (stage.sampler, 'sample'),
        }

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare all sampled proposals, see :class:`HeadReader`."""
        head = roi_stages(teacher.model)[self.stage].bbox_head
        (student_cls, student_bbox), (teacher_cls, teacher_bbox) = (
            one.output(self.name)[:2] for one in (student, teacher)
        )
        if student_cls is None or student_cls.dim() != 2:
            raise TypeError(
                f'{type(head).__name__} does not return class logits of proposals, so '
                f'they cannot be distilled. {PLAIN_TERMS}'
            )
        uses_sigmoid = getattr(head.loss_cls, 'use_sigmoid', False)
        result = SoftLabels(
            student_cls=student_cls,
            teacher_cls=teacher_cls,
            cls_form='sigmoid' if uses_sigmoid else 'softmax',
            weight=student_cls.new_ones(len(student_cls)),
        )
        if student_bbox is None:
            return result
        labels, positives = self.sample_labels(student)
        return result._replace(
            student_bbox=of_class(student_bbox.unflatten(1, (-1, 4)), labels),
            teacher_bbox=of_class(teacher_bbox.unflatten(1, (-1, 4)), labels),
            bbox_form='offset',
            bbox_weight=positives.float(),
        )


def of_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Pick the true class's part of (M, C or 1, ...)."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs[torch.arange(len(labels), device=labels.device), labels]
