"""The box heads of two-stage detectors, which score sampled proposals."""

from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.recorder import Target

from .base import PLAIN_TERMS, HeadReader, activated_logits


class Stage(NamedTuple):
    """One stage of an RoI head; most have a single one."""

    bbox_head: BaseModule
    sampler: Any
    mask_head: Optional[BaseModule]


def roi_stages(detector: BaseModel) -> List[Stage]:
    """Return the stages of a detector's RoI head, none without one.

    A cascade with a single mask head, SCNet's, trains it in its last stage.
    """
    from mmdet.models.roi_heads import SparseRoIHead
    from mmdet.models.roi_heads.base_roi_head import BaseRoIHead

    roi_head = getattr(detector, 'roi_head', None)
    # Sparse R-CNN's matches queries, and samples nothing.
    if not isinstance(roi_head, BaseRoIHead) or isinstance(roi_head, SparseRoIHead):
        return []

    def stages(part: Any) -> list:
        return list(part) if isinstance(part, (list, nn.ModuleList)) else [part]

    heads = stages(roi_head.bbox_head)
    masks = stages(roi_head.mask_head) if roi_head.with_mask else []
    masks = [None] * (len(heads) - len(masks)) + masks
    samplers = stages(roi_head.bbox_sampler)
    samplers += [None] * (len(heads) - len(samplers))  # a model that only predicts
    return list(map(Stage, heads, samplers, masks))


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

    def samples_of(self, student: Pass, num_images: int) -> List[Any]:
        """Return how the proposals of each image were sampled for this head.

        PISA's sampler gives weights besides. Of HTC, which samples anew between its
        box and its mask head, the first samples are the box head's.

        Args:
            student: The student's pass.
            num_images: N.
        """
        samples = student.outputs[self.samples][:num_images]
        return [one[0] if isinstance(one, tuple) else one for one in samples]

    def sample_labels(self, samples: Sequence[Any]) -> Tuple[Tensor, Tensor]:
        """Return ground-truth classes and positives of the samples, both (M,).

        The proposals of an image are its positives, then its negatives.
        """
        labels, positives = [], []
        for sample in samples:
            found = sample.pos_gt_labels
            negatives = found.new_zeros(len(sample.neg_priors))
            labels += [found, negatives]
            positives += [torch.ones_like(found), negatives]
        return torch.cat(labels), torch.cat(positives)


@HEAD_READERS.register_module()
class ProposalReader(StageReader):
    """Reads the box heads: class logits and boxes of all sampled proposals.

    Boxes that are no offsets, such as the buckets of ``SABLHead``, are left out.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for every stage."""
        return [cls(f'roi{i}', i) for i, _ in enumerate(roi_stages(detector))]

    def check(self, detector: BaseModel) -> None:
        """Refuse heads that predict a set of boxes a proposal."""
        from mmdet.models.roi_heads.bbox_heads import BBoxHead, SABLHead
        from mmdet.models.roi_heads.bbox_heads.multi_instance_bbox_head import (
            MultiInstanceBBoxHead,
        )

        head = roi_stages(detector)[self.stage].bbox_head
        if isinstance(head, MultiInstanceBBoxHead) or not isinstance(
            head, (BBoxHead, SABLHead)
        ):
            raise TypeError(
                f'{type(head).__name__} does not return one row of class logits a '
                f'proposal, so its soft labels cannot be compared. {PLAIN_TERMS}'
            )

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
        samples = self.samples_of(student, len(data_samples))
        labels, positives = self.sample_labels(samples)
        (student_cls, student_bbox), (teacher_cls, teacher_bbox) = (
            self._scores(one, len(labels)) for one in (student, teacher)
        )
        uses_sigmoid = getattr(head.loss_cls, 'use_sigmoid', False)
        form = 'sigmoid' if uses_sigmoid else 'softmax'
        result = SoftLabels(
            student_cls=activated_logits(head.loss_cls, student_cls, form),
            teacher_cls=activated_logits(head.loss_cls, teacher_cls, form),
            cls_form=form,
            weight=student_cls.new_ones(len(student_cls)),
        )
        if not isinstance(student_bbox, Tensor):
            return result
        columns = head.bbox_coder.encode_size  # more than 4 of rotated boxes
        return result._replace(
            student_bbox=of_class(student_bbox.unflatten(1, (-1, columns)), labels),
            teacher_bbox=of_class(teacher_bbox.unflatten(1, (-1, columns)), labels),
            bbox_form='offset',
            bbox_weight=positives.float(),
        )

    def _scores(self, one: Pass, num_samples: int) -> Tuple[Tensor, Any]:
        """Return logits and boxes of the samples.

        Samplers such as PISA's and OHEM's score other proposals with the head.
        """
        outputs = [output[:2] for output in one.outputs[self.name]]
        fitting = [output for output in outputs if len(output[0]) == num_samples]
        return fitting[-1]


def of_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Pick the true class's part of (M, C or 1, ...)."""
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    return outputs[torch.arange(len(labels), device=labels.device), labels]
