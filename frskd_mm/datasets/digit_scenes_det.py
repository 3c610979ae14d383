"""Digit scenes for detection and instance segmentation."""

from typing import Any, List, Optional

import numpy as np
import pycocotools.mask as coco_mask
from mmdet.datasets import BaseDetDataset

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import at_least, check_arguments, one_of

from .bundled_digits import CLASSES, SPLITS
from .digit_scenes import PALETTE, DigitScene, DigitScenes


@DATASETS.register_module()
class DigitScenesDet(BaseDetDataset):
    """Scenes whose digits have boxes and masks, as COCO's objects have.

    Images are in memory: a pipeline starts with ``LoadImageFromNDArray``
    instead of ``LoadImageFromFile`` and goes on as for COCO. ``CocoMetric``
    needs no annotation file: leave ``ann_file`` out and pack ``instances``
    among the meta keys, and it takes the truth from there.

    Args:
        split (str): 'train' or 'test', or 'subtrain' and 'val' to choose settings,
            each pair drawn from different handwritten digits. Defaults to 'train'.
        num_scenes (int): Number of scenes. Defaults to 500.
        scene (dict, optional): Settings of :class:`DigitScenes`.
        **kwargs: Other arguments of mmdet's ``BaseDetDataset``. Of the digits, those in
            the ``classes`` of ``metainfo`` are annotated; all are drawn.
    """

    METAINFO = {'classes': CLASSES, 'palette': PALETTE}

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
        super().__init__(**kwargs)

    def load_data_list(self) -> List[dict]:
        """Draw the scenes.

        Returns:
            list[dict]: ``img`` (size, size, 3) uint8 RGB, ``img_id``,
            ``height``, ``width`` and ``instances``, each with ``bbox`` (x1, y1,
            x2, y2), ``bbox_label``, ``ignore_flag`` and ``mask`` in COCO's
            run-length code.
        """
        return [
            dict(
                img=scene.img,
                img_id=index,
                height=scene.img.shape[0],
                width=scene.img.shape[1],
                instances=self._instances(scene),
            )
            for index, scene in enumerate(map(self.scenes.draw, range(self.num_scenes)))
        ]

    def _instances(self, scene: DigitScene) -> List[dict]:
        labels = {name: label for label, name in enumerate(self.metainfo['classes'])}
        return [
            dict(
                bbox=box.tolist(),
                bbox_label=labels[CLASSES[digit]],
                ignore_flag=0,
                mask=_run_length_code(mask),
            )
            for digit, box, mask in zip(scene.labels, scene.boxes, scene.masks)
            if CLASSES[digit] in labels
        ]


def _run_length_code(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    code['counts'] = code['counts'].decode()  # text, as it would be in a file
    return code
