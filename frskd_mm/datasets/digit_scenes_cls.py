"""Digit scenes for classification."""

from typing import Any, List, Optional

from mmpretrain.datasets import BaseDataset

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import at_least, check_arguments, one_of

from .bundled_digits import CLASSES, SPLITS
from .digit_scenes import DigitScenes


@DATASETS.register_module()
class DigitScenesCls(BaseDataset):
    """Which digit is it? Scenes with one digit, somewhere in the clutter.

    Images are in memory, so a pipeline starts without a loading transform.

    Args:
        split (str): 'train' or 'test', or 'subtrain' and 'val' to choose settings,
            each pair drawn from different handwritten digits. Defaults to 'train'.
        num_scenes (int): Number of scenes. Defaults to 500.
        scene (dict, optional): Settings of :class:`DigitScenes`.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``.
    """

    METAINFO = {'classes': CLASSES}

    @check_arguments(split=one_of(*SPLITS), num_scenes=at_least(1))
    def __init__(
        self,
        split: str = 'train',
        num_scenes: int = 500,
        scene: Optional[dict] = None,
        **kwargs: Any,
    ) -> None:
        self.scenes = DigitScenes(split, **{**(scene or {}), 'num_digits': (1, 1)})
        self.num_scenes = num_scenes
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Draw the scenes.

        Returns:
            list[dict]: ``img`` (size, size, 3) uint8 RGB and ``gt_label``.
        """
        scenes = map(self.scenes.draw, range(self.num_scenes))
        return [dict(img=s.img, gt_label=int(s.labels[0])) for s in scenes]
