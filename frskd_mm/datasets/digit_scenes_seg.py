"""Digit scenes for semantic segmentation."""

from typing import Any, List, Optional

import numpy as np
from mmseg.datasets import BaseSegDataset

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import at_least, check_arguments, one_of

from .bundled_digits import CLASSES, SPLITS
from .digit_scenes import PALETTE, DigitScenes


@DATASETS.register_module()
class DigitScenesSeg(BaseSegDataset):
    """Scenes in which every pixel belongs to a digit or to the background.

    Images and label maps are in memory: a pipeline starts with
    ``LoadImageFromNDArray`` and has no ``LoadAnnotations``. Pixels at the
    blurred edges of digits are ignored (label 255).

    Args:
        split (str): 'train' or 'test', or 'subtrain' and 'val' to choose settings,
            each pair drawn from different handwritten digits. Defaults to 'train'.
        num_scenes (int): Number of scenes. Defaults to 500.
        scene (dict, optional): Settings of :class:`DigitScenes`.
        **kwargs: Other arguments of mmseg's ``BaseSegDataset``.
    """

    METAINFO = {
        'classes': ('background', *CLASSES),
        'palette': [[0, 0, 0], *map(list, PALETTE)],
    }

    @check_arguments(split=one_of(*SPLITS), num_scenes=at_least(1))
    def __init__(
        self,
        split: str = 'train',
        num_scenes: int = 500,
        scene: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        self.scenes = DigitScenes(split, **(scene or {}))
        self.num_scenes = num_scenes
        # Label 0 is a class, and label maps do not come from files.
        super().__init__(reduce_zero_label=False, **kwargs)

    def load_data_list(self) -> List[dict]:
        """Draw the scenes.

        Returns:
            list[dict]: ``img`` (size, size, 3) uint8 RGB and ``gt_seg_map``
            (size, size) uint8.
        """
        new_labels = np.arange(256, dtype=np.uint8)
        for old, new in (self.label_map or {}).items():
            new_labels[old] = new
        return [
            dict(
                img=scene.img,
                gt_seg_map=new_labels[scene.seg_map],
                seg_fields=['gt_seg_map'],
                reduce_zero_label=False,
            )
            for scene in map(self.scenes.draw, range(self.num_scenes))
        ]
