"""The handwritten digits that come with scikit-learn: data without a download."""

from typing import Optional, Tuple

import numpy as np

from frskd_mm.utils.optional import missing_package

CLASSES = tuple('0123456789')
#: Images of each class, in the file's order. 'subtrain' and 'val' part 'train'.
#: Scenes are seeded with a split's place here, so new ones go to the end.
SPLITS = {
    'train': slice(0, 100),
    'test': slice(100, None),
    'subtrain': slice(0, 70),
    'val': slice(70, 100),
}


def read_digits(
    split: str, num_per_class: Optional[int] = None
) -> Tuple[np.ndarray, np.ndarray]:
    """Read one split of scikit-learn's 1797 handwritten digits.

    There is no published split. Here the first 100 images of each class are
    for training and the other 797 for testing, in the file's order, which
    keeps the images of a writer together. To choose settings without the test
    images, train on the first 70 of the 100, 'subtrain', and test on the
    other 30, 'val'.

    Args:
        split: 'train', 'test', 'subtrain' or 'val'.
        num_per_class: Keep only the first so many images of each class.
            Defaults to all.

    Returns:
        tuple: Images (N, 8, 8) uint8, ink is bright, and labels (N, ).

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an argument is out of range.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be one of {tuple(SPLITS)}, got {split!r}.')
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_package('scikit-learn', 'The embedded data') from error
    images, labels = load_digits(return_X_y=True)
    kept = []
    for label in range(len(CLASSES)):
        indices = np.flatnonzero(labels == label)[SPLITS[split]]
        if num_per_class is not None and not 1 <= num_per_class <= indices.size:
            raise ValueError(
                f'num_per_class must lie in [1, {indices.size}] for the {split} '
                f'split, got {num_per_class}.'
            )
        kept.append(indices[:num_per_class])
    order = np.sort(np.concatenate(kept))
    # The values count the set pixels of 4x4 blocks, 0 to 16.
    images = np.rint(images[order] * (255 / 16)).astype(np.uint8)
    return images.reshape(-1, 8, 8), labels[order]
