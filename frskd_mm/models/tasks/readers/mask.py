"""The mask heads of two-stage detectors."""

from typing import Any, Dict, List, Sequence

import torch
from mmengine.model import BaseModel

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.recorder import Target

from .base import HeadReader
from .proposal import StageReader, of_class, roi_stages


@HEAD_READERS.register_module()
class MaskReader(StageReader):
    """Reads the mask heads: the true class's masks of the positive proposals."""

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for every stage with a mask head."""
        return [
            cls(f'mask{i}', i)
            for i, stage in enumerate(roi_stages(detector))
            if stage.mask_head is not None
        ]

    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Record the masks and how the proposals were sampled."""
        stage = roi_stages(detector)[self.stage]
        return {
            self.name: (stage.mask_head, 'forward'),
            self.samples: (stage.sampler, 'sample'),
        }

    def samples_of(self, student: Pass, num_images: int) -> List[Any]:
        """Return how the proposals of each image were sampled for this head.

        HTC samples anew for its mask head.
        """
        samples = student.outputs[self.samples][-num_images:]
        return [one[0] if isinstance(one, tuple) else one for one in samples]

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Compare masks, every pixel a place, see :class:`HeadReader`."""
        samples = self.samples_of(student, len(data_samples))
        labels = torch.cat([sample.pos_gt_labels for sample in samples])
        ours, theirs = (
            # HTC's later stages run it again, for its feature map.
            of_class(one.outputs[self.name][0], labels).reshape(-1, 1)
            for one in (student, teacher)
        )
        return SoftLabels(ours, theirs, 'sigmoid', weight=ours.new_ones(len(ours)))
