"""Small images that are kept on a device and augmented a batch at a time."""

from typing import Any, Dict, Sequence

import numpy as np
import torch
from mmcv.transforms import RandomFlip
from mmpretrain.datasets.transforms import PackInputs, RandomCrop
from mmpretrain.structures import DataSample
from torch import Tensor

from frskd_mm.registry import FUNCTIONS


class DeviceBatches:
    """All images of a data set in a device's memory, and its pipeline for batches.

    What comes out is, bit for bit, what the transforms make of each image, given the
    same crops and flips. These are drawn from numpy's generator, as the transforms
    draw them, but a batch at a time, so that trainings differ by their draws.

    Args:
        images (np.ndarray): (M, H, W, 3), uint8.
        labels (Sequence[int]): M classes.
        transforms (Sequence[object]): At most one ``RandomCrop`` with constant
            padding, ``RandomFlip`` in horizontal direction, and ``PackInputs``.
        device (str): Where the images are kept.

    Raises:
        ValueError: If there are other transforms, or these do something else.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: Sequence[int],
        transforms: Sequence[Any],
        device: str,
    ) -> None:
        self.labels = labels
        self.padding, self.flip_prob = 0, 0.0
        self.size = images.shape[1:3]
        for transform in transforms:
            self._take_over(transform)
        planes = torch.from_numpy(images).permute(0, 3, 1, 2)
        self.planes = torch.nn.functional.pad(planes, [self.padding] * 4).to(device)

    def _take_over(self, transform: Any) -> None:
        """Read what a transform does."""
        if isinstance(transform, RandomCrop):
            plain = isinstance(transform.padding, int) and not transform.pad_val
            if plain and transform.padding_mode == 'constant':
                if tuple(transform.crop_size) != self.size:
                    raise ValueError(
                        f'batches_on keeps the size of the images, {self.size}, but '
                        f'crop_size of RandomCrop is {tuple(transform.crop_size)}. '
                        'Remove batches_on from the data set.'
                    )
                self.padding = transform.padding
                return
        elif isinstance(transform, RandomFlip):
            if transform.direction == 'horizontal' and isinstance(
                transform.prob, float
            ):
                self.flip_prob = transform.prob
                return
        elif isinstance(transform, PackInputs):
            return
        raise ValueError(
            f'batches_on cannot do what {transform} does: the pipeline may have '
            'RandomCrop with padding=NUMBER and pad_val=0, RandomFlip with one prob '
            "and direction='horizontal', and PackInputs. Remove batches_on from the "
            'data set, or the transform from its pipeline.'
        )

    def draw(self, number: int) -> Dict[str, np.ndarray]:
        """Draw rows and columns where the crops begin, and which are mirrored.

        Args:
            number: N.
        """
        return dict(
            top=np.random.randint(0, 2 * self.padding + 1, number),
            left=np.random.randint(0, 2 * self.padding + 1, number),
            flip=np.random.rand(number) < self.flip_prob,
        )

    def augment(
        self,
        indices: Sequence[int],
        top: np.ndarray,
        left: np.ndarray,
        flip: np.ndarray,
    ) -> Tensor:
        """Return cropped and mirrored images (N, 3, H, W), uint8.

        Args:
            indices: Of N images.
            top: (N,), the first row of each, counted in the padded image.
            left: (N,), the first column.
            flip: (N,), which are mirrored.
        """
        height, width = self.size
        across = np.arange(width)
        columns = left[:, None] + np.where(flip[:, None], across[::-1], across)
        rows = top[:, None] + np.arange(height)
        index, y, x = (
            torch.from_numpy(np.asarray(value)).to(self.planes.device)
            for value in (indices, rows, columns)
        )
        # Advanced indices on both sides of a slice put their dimensions first.
        picked = self.planes[index[:, None, None], :, y[:, :, None], x[:, None]]
        return picked.permute(0, 3, 1, 2).contiguous()

    def __call__(self, indices: Sequence[int]) -> Dict[str, Any]:
        """Return a batch, as a data loader's collate function would."""
        samples = []
        for index in indices:
            sample = DataSample(metainfo=dict(sample_idx=index, img_shape=self.size))
            samples.append(sample.set_gt_label(self.labels[index]))
        inputs = self.augment(indices, **self.draw(len(indices)))
        return dict(inputs=inputs, data_samples=samples)


@FUNCTIONS.register_module()
def keep_batch(batch: Dict[str, Any]) -> Dict[str, Any]:
    """Return what is a batch already, in place of a collate function."""
    return batch
