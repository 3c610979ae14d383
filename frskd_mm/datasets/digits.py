"""Embedded handwritten digits for classification."""

from typing import Any, List, Optional

import cv2
import numpy as np
from mmpretrain.datasets import BaseDataset

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import at_least, check_arguments, one_of

from .bundled_digits import CLASSES, SPLITS, read_digits


@DATASETS.register_module()
class Digits(BaseDataset):
    """scikit-learn's 1797 handwritten digits, which need no download.

    Images are in memory, so a pipeline starts without a loading transform,
    as for mmpretrain's CIFAR data sets.

    Source: https://archive.ics.uci.edu/dataset/80, its test part, as
    ``sklearn.datasets.load_digits`` gives it.

    Args:
        split (str): 'train' (100 images a class), 'test' (the other 797), or the
            parts of 'train' that serve to choose settings, 'subtrain' (70) and
            'val' (30). Defaults to 'train'.
        num_per_class (int, optional): Keep only the first so many images of
            each class: with few of them the task gets hard. Defaults to all.
        size (int): Side that the 8x8 images are enlarged to. Defaults to 32.
        **kwargs: Other arguments of mmpretrain's ``BaseDataset``.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If ``split`` or ``num_per_class`` is out of range.
    """

    METAINFO = {'classes': CLASSES}

    @check_arguments(split=one_of(*SPLITS), size=at_least(1))
    def __init__(
        self,
        split: str = 'train',
        num_per_class: Optional[int] = None,
        size: int = 32,
        **kwargs: Any,
    ) -> None:
        self.split = split
        self.num_per_class = num_per_class
        self.size = size
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> List[dict]:
        """Read the split.

        Returns:
            list[dict]: ``img`` (size, size, 3) uint8 and ``gt_label``.
        """
        images, labels = read_digits(self.split, self.num_per_class)
        return [
            {'img': self._enlarge(image), 'gt_label': int(label)}
            for image, label in zip(images, labels)
        ]

    def _enlarge(self, image: np.ndarray) -> np.ndarray:
        large = cv2.resize(
            image, (self.size, self.size), interpolation=cv2.INTER_LINEAR
        )
        return np.repeat(large[..., None], 3, axis=2)
