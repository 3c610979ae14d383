"""Scenes composed of real handwritten digits, with exact annotations."""

from typing import List, NamedTuple, Optional, Tuple

import cv2
import numpy as np

from frskd_mm.utils.arguments import FRACTION, at_least, check_arguments, one_of

from .bundled_digits import CLASSES, SPLITS, read_digits
from .label_noise import IGNORE_INDEX, noisy_label

#: One colour a digit, for the hosts' visualisers.
PALETTE = [
    (230, 25, 75),
    (60, 180, 75),
    (255, 225, 25),
    (0, 130, 200),
    (245, 130, 48),
    (145, 30, 180),
    (70, 240, 240),
    (240, 50, 230),
    (210, 245, 60),
    (0, 128, 128),
]
# Ink is the fraction of a pixel that a stroke covers.
SOLID_INK = 0.5
FAINT_INK = 0.15
MIN_VISIBLE = 0.75
PLACEMENTS = 20


class DigitScene(NamedTuple):
    """One picture and its annotations, of K digits from back to front."""

    #: (H, W, 3) uint8 RGB.
    img: np.ndarray
    #: (H, W) uint8: 0 background, 1 + digit, ``IGNORE_INDEX`` at ignored edges.
    seg_map: np.ndarray
    #: (K, ) digits.
    labels: np.ndarray
    #: (K, 4) float32 x1, y1, x2, y2: the extents of the masks.
    boxes: np.ndarray
    #: (K, H, W) bool, the visible pixels of each digit.
    masks: np.ndarray


class DigitScenes:
    """Draws scenes, each from the seed and its index alone.

    Digits of random size, stretch, colour and place lie on a coloured gradient
    with clutter: lines, and fragments of other digits. They may overlap; of
    each at least three quarters stay visible, and all are complete within the picture.
    'train' and 'test' are drawn from different handwritten digits, and so are
    the parts of 'train', 'subtrain' and 'val', which serve to choose settings.

    Args:
        split (str): 'train', 'test', 'subtrain' or 'val'.
        size (int): Height and width. Defaults to 96.
        num_digits (tuple[int, int]): Fewest and most digits of a scene.
            Defaults to (1, 4).
        digit_size (tuple[int, int]): Smallest and greatest height of a digit's
            8x8 image in pixels. Defaults to (24, 44).
        clutter (int): Greatest number of lines, and of fragments.
            Defaults to 4.
        noise (float): Standard deviation of the pixels' noise, of 255.
            Defaults to 12.
        seed (int): Defaults to 0.
        ignore_edges (bool): Whether blurred edges belong to no class; otherwise
            they stay what is behind them. Defaults to True.
        label_noise (float): Probability that a digit is annotated as another one,
            each as likely, for experiments on wrong annotations. It changes no
            picture. Defaults to 0.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If an argument is out of range.
    """

    @check_arguments(
        split=one_of(*SPLITS),
        size=at_least(10),
        num_digits=at_least(0),
        clutter=at_least(0),
        noise=at_least(0),
        seed=at_least(0),
        label_noise=FRACTION,
    )
    def __init__(
        self,
        split: str,
        size: int = 96,
        num_digits: Tuple[int, int] = (1, 4),
        digit_size: Tuple[int, int] = (24, 44),
        clutter: int = 4,
        noise: float = 12.0,
        seed: int = 0,
        ignore_edges: bool = True,
        label_noise: float = 0.0,
    ) -> None:
        if num_digits[0] > num_digits[1]:
            raise ValueError(
                f'num_digits must be (fewest, most), both >= 0, got {num_digits}.'
            )
        # Digits may be stretched by a quarter.
        if not 8 <= digit_size[0] <= digit_size[1] <= 0.8 * size:
            raise ValueError(
                f'digit_size must be (smallest, greatest) within [8, 0.8 * size = '
                f'{0.8 * size:g}], got {digit_size}.'
            )
        self.digits, self.labels = read_digits(split)
        self.split = split
        self.size = size
        self.num_digits = tuple(num_digits)
        self.digit_size = tuple(digit_size)
        self.clutter = clutter
        self.noise = noise
        self.seed = seed
        self.ignore_edges = ignore_edges
        self.label_noise = label_noise

    def draw(self, index: int) -> DigitScene:
        """Draw the scene of an index.

        Args:
            index: Any number >= 0.
        """
        place = (self.seed, list(SPLITS).index(self.split), index)
        rng = np.random.default_rng(place)
        annotator = np.random.default_rng((*place, 1))  # leaves the picture's draws
        img = self._background(rng)
        for _ in range(rng.integers(self.clutter + 1)):
            self._draw_line(img, rng)
        for _ in range(rng.integers(self.clutter + 1)):
            self._paint(img, self._fragment(rng), self._colour(rng))

        seg_map = np.zeros((self.size, self.size), np.uint8)
        labels: List[int] = []
        masks: List[np.ndarray] = []
        areas: List[int] = []
        for _ in range(rng.integers(self.num_digits[0], self.num_digits[1] + 1)):
            source = rng.integers(len(self.digits))
            ink = self._place_visibly(self.digits[source], masks, areas, rng)
            if ink is None:
                continue
            self._paint(img, ink, self._colour(rng))
            solid = ink >= SOLID_INK
            masks = [mask & ~solid for mask in masks] + [solid]
            areas.append(solid.sum())
            labels.append(self._annotate(int(self.labels[source]), annotator))
            if self.ignore_edges:
                seg_map[ink >= FAINT_INK] = IGNORE_INDEX
            seg_map[solid] = 1 + labels[-1]

        img += rng.normal(0, self.noise, img.shape)
        return DigitScene(
            img=np.clip(np.rint(img), 0, 255).astype(np.uint8),
            seg_map=seg_map,
            labels=np.array(labels, dtype=np.int64),
            boxes=np.array([box_of(mask) for mask in masks], np.float32).reshape(-1, 4),
            masks=np.array(masks, dtype=bool).reshape(-1, self.size, self.size),
        )

    def _annotate(self, digit: int, rng: np.random.Generator) -> int:
        """Return what a digit is said to be."""
        return noisy_label(digit, self.label_noise, len(CLASSES), rng)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        """Return a gradient between two dark colours, (H, W, 3) float."""
        angle = rng.uniform(0, 2 * np.pi)
        axis = np.linspace(-0.5, 0.5, self.size)
        slope = np.add.outer(axis * np.sin(angle), axis * np.cos(angle)) / np.sqrt(2)
        start, end = rng.uniform(0, 110, (2, 3))
        return start + (0.5 + slope)[..., None] * (end - start)

    def _colour(self, rng: np.random.Generator) -> np.ndarray:
        """Return a bright colour, so that digits stand out."""
        return rng.uniform(130, 255, 3)

    def _draw_line(self, img: np.ndarray, rng: np.random.Generator) -> None:
        start, end = rng.integers(0, self.size, (2, 2)).tolist()
        cv2.line(img, start, end, self._colour(rng).tolist(), 1, cv2.LINE_AA)

    def _fragment(self, rng: np.random.Generator) -> np.ndarray:
        """Return the ink of a piece of a digit, too small to be told."""
        digit = self.digits[rng.integers(len(self.digits))]
        y, x = rng.integers(1, 5, 2)
        piece = np.zeros_like(digit)
        piece[y : y + 3, x : x + 3] = digit[y : y + 3, x : x + 3]
        return self._place(piece, rng)

    def _place(self, digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the ink (H, W) in [0, 1] of an 8x8 image at a random place."""
        low, high = self.digit_size
        height = round(rng.uniform(low, high))
        width = round(height * rng.uniform(0.8, 1.25))
        large = cv2.resize(digit, (width, height), interpolation=cv2.INTER_CUBIC)
        top = rng.integers(self.size - height + 1)
        left = rng.integers(self.size - width + 1)
        ink = np.zeros((self.size, self.size))
        # Strokes come out opaque in the middle.
        ink[top : top + height, left : left + width] = large / 160
        return np.clip(ink, 0, 1)

    def _place_visibly(
        self,
        digit: np.ndarray,
        masks: List[np.ndarray],
        areas: List[int],
        rng: np.random.Generator,
    ) -> Optional[np.ndarray]:
        """Return the ink of a place where those behind stay visible, if any."""
        for _ in range(PLACEMENTS):
            ink = self._place(digit, rng)
            solid = ink >= SOLID_INK
            if all(
                (mask & ~solid).sum() >= MIN_VISIBLE * area
                for mask, area in zip(masks, areas)
            ):
                return ink
        return None

    @staticmethod
    def _paint(img: np.ndarray, ink: np.ndarray, colour: np.ndarray) -> None:
        img += ink[..., None] * (colour - img)


def box_of(mask: np.ndarray) -> Tuple[int, int, int, int]:
    """Return the extent (x1, y1, x2, y2) of a mask, x2 and y2 exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
