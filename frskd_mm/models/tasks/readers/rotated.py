"""One-stage heads of mmrotate that predict a box's angle in a branch of its own."""

from typing import Any, List, Optional, Sequence

import torch
from mmengine.model import BaseModel, BaseModule
from torch import Tensor

from frskd_mm.registry import HEAD_READERS

from .base import HeadReader
from .dense import DenseMaps, DenseReader


@HEAD_READERS.register_module()
class RotatedReader(DenseReader):
    """Reads dense heads with an angle coder, such as ``RotatedFCOSHead``.

    Other heads of mmrotate hold the angle among the values of a box, and are read
    as mmdetection's.
    """

    @classmethod
    def find(cls, detector: BaseModel) -> List[HeadReader]:
        """Return one reader for a ``bbox_head`` with an ``angle_coder``."""
        head = getattr(detector, 'bbox_head', None)
        return super().find(detector) if hasattr(head, 'angle_coder') else []

    def as_maps(self, head: BaseModule, outputs: Sequence[Any]) -> DenseMaps:
        """Return what a head gave, by kind."""
        return RotatedMaps(head, outputs)


class RotatedMaps(DenseMaps):
    """Maps of classes, boxes, angles and perhaps centerness, as :class:`DenseMaps`.

    Of boxes that are distances to the sides, the angle is compared, too, unless it is
    a class among bins (``CSLCoder``), which has no gradient. Of offsets it is not.
    """

    def __init__(self, head: BaseModule, outputs: Sequence[Any]) -> None:
        classes, boxes, angles, *quality = outputs
        super().__init__(head, [classes, boxes, *quality])
        if self.bbox is None:
            return
        self.bbox = [level[..., :4] for level in self.bbox]
        decoded = self._decode(angles)
        if decoded is not None:
            pairs = zip(self.bbox, decoded)
            self.bbox = [torch.cat([sides, turn], dim=-1) for sides, turn in pairs]

    def _decode(self, angles: Sequence[Tensor]) -> Optional[List[Tensor]]:
        """Return angles in radians, per level (N, H * W * A, 1)."""
        from mmrotate.models.task_modules.coders import CSLCoder

        coder = self.head.angle_coder
        if not self._gives_distances() or isinstance(coder, CSLCoder):
            return None
        levels = self._find([angles], coder.encode_size)
        return levels and [
            coder.decode(level.flatten(0, 1), keepdim=True).unflatten(
                0, level.shape[:2]
            )
            for level in levels
        ]

    def _gives_distances(self) -> bool:
        from mmrotate.models.task_modules.coders import DistanceAnglePointCoder

        return isinstance(self.head.bbox_coder, DistanceAnglePointCoder)

    @property
    def bbox_form(self) -> str:
        """Return the form of the boxes."""
        if not self._gives_distances():
            return 'offset'
        assert self.bbox is not None
        return 'distance' if self.bbox[0].shape[-1] == 4 else 'rotated'
