"""Wrong annotations on purpose, for experiments on what they cost."""

from typing import Any, Dict

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from frskd_mm.registry import TRANSFORMS
from frskd_mm.utils.arguments import FRACTION, at_least, check_arguments

#: Label of pixels without a class, as in mmseg.
IGNORE_INDEX = 255
LABELS = ('gt_label', 'gt_bboxes_labels', 'gt_seg_map')


def another_class(label: int, num_classes: int, rng: np.random.Generator) -> int:
    """Draw one of the other classes, each as likely."""
    return (label + int(rng.integers(1, num_classes))) % num_classes


def noisy_label(
    label: int, fraction: float, num_classes: int, rng: np.random.Generator
) -> int:
    """Return a label or, with some probability, another one."""
    if rng.random() >= fraction:
        return label
    return another_class(label, num_classes, rng)


@TRANSFORMS.register_module()
class LabelNoise(BaseTransform):
    """Annotates a fraction of images, boxes or regions as another class.

    Each of them independently, each other class as likely: symmetric noise. It
    follows from the seed and the sample's index alone and is the same in every epoch
    and run. Put it right behind the ``LoadAnnotations`` of the training pipeline
    (classification: in front of all others), and nowhere in that of a test.

    Boxes and masks keep their places. In a label map each connected region of a class
    (8 neighbours) has its own draw; pixels of no class, 255, stay so. Pairs of images
    (CS-KD) and balanced samplers go by the data set's own labels, the right ones.

    Args:
        fraction (float): Probability of a wrong label.
        num_classes (int): Of the data set, in a label map with its background if
            this is a class.
        seed (int): Defaults to 0.

    Required keys: ``sample_idx``, which each data set of MMEngine gives. Modified keys:
    ``gt_label``, ``gt_bboxes_labels`` and ``gt_seg_map``, whichever there are.

    Raises:
        ValueError: If an argument is out of range, a label is not below
            ``num_classes``, or a sample has nothing to change.
    """

    @check_arguments(fraction=FRACTION, num_classes=at_least(2), seed=at_least(0))
    def __init__(self, fraction: float, num_classes: int, seed: int = 0) -> None:
        self.fraction = fraction
        self.num_classes = num_classes
        self.seed = seed

    def transform(self, results: Dict[str, Any]) -> Dict[str, Any]:
        """Replace labels.

        Args:
            results: Of the data set or the transform before; labels int, (K, ) and
                (H, W).
        """
        if not any(key in results for key in LABELS):
            raise ValueError(
                f'LabelNoise found neither {" nor ".join(LABELS)}, but '
                f'{sorted(results)}. Put it behind LoadAnnotations of the training '
                'pipeline.'
            )
        rng = np.random.default_rng((self.seed, results['sample_idx']))
        if 'gt_label' in results:
            results['gt_label'] = self._annotate(results['gt_label'], rng)
        if 'gt_bboxes_labels' in results:
            labels = results['gt_bboxes_labels']
            results['gt_bboxes_labels'] = np.array(
                [self._annotate(label, rng) for label in labels], dtype=labels.dtype
            )
        if 'gt_seg_map' in results:
            results['gt_seg_map'] = self._annotate_map(results['gt_seg_map'], rng)
        return results

    def _annotate(self, label: int, rng: np.random.Generator) -> int:
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f'LabelNoise met the label {label} with num_classes={self.num_classes}.'
                ' Set num_classes to the number of classes of the data set.'
            )
        return noisy_label(int(label), self.fraction, self.num_classes, rng)

    def _annotate_map(
        self, seg_map: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        noisy = seg_map.copy()
        for label in np.setdiff1d(seg_map, IGNORE_INDEX):
            number, regions = cv2.connectedComponents(
                (seg_map == label).astype(np.uint8)
            )
            said = [self._annotate(label, rng) for _ in range(1, number)]
            inside = regions > 0
            noisy[inside] = np.array([label, *said])[regions[inside]]
        return noisy

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(fraction={self.fraction}, '
            f'num_classes={self.num_classes}, seed={self.seed})'
        )
