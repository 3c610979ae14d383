"""Which positions of a detector's maps hold objects."""

from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from frskd_mm.utils.precision import at_least_fp32

FOREGROUNDS = (None, 'confidence', 'boxes')

#: Columns of a rotated box.
ROTATED = 5
#: Exponent of the self-teacher's confidence, as the focal loss's gamma. New
#: heads give every class a probability of 0.01, and of some 10^5 places of an
#: image a few hundred hold objects: unsquared, the rest would outweigh them.
CONFIDENCE_POWER = 2


def confidence_weight(
    cls: Tensor, quality: Optional[Tensor] = None, softmax: bool = False
) -> Tensor:
    """Return how strongly a head believes in an object, squared.

    Args:
        cls: Class logits (..., C); with ``softmax`` the last is background.
        quality: Logits (...) of centerness or objectness, which multiplies
            the score as it does when the detector predicts.
        softmax: Whether the classes exclude each other.

    Returns:
        Tensor: fp32 or wider (...), in [0, 1], detached.
    """
    cls = at_least_fp32(cls.detach())
    if softmax:
        score = 1.0 - cls.softmax(dim=-1)[..., -1]
    else:
        score = cls.max(dim=-1).values.sigmoid()
    if quality is not None:
        score = score * at_least_fp32(quality.detach()).sigmoid()
    return score**CONFIDENCE_POWER


def inside_boxes(
    boxes: Sequence[Tensor], image_size: Tuple[int, int], map_size: Tuple[int, int]
) -> Tensor:
    """Return which cells of a map have their centre in a box.

    Boxes of no area hold nothing.

    Args:
        boxes: Per image (G, 4), x1, y1, x2, y2 in pixels; or rotated ones (G, 5),
            centre, width and height in pixels, and the clockwise angle in radians.
        image_size: Height and width of the padded batch.
        map_size: Height and width of the map.

    Returns:
        Tensor: Boolean (N, H, W).
    """
    (height, width), (rows, columns) = image_size, map_size
    inside = []
    for box in boxes:
        y = (torch.arange(rows, device=box.device) + 0.5) * (height / rows)
        x = (torch.arange(columns, device=box.device) + 0.5) * (width / columns)
        within = _within_rotated if box.shape[1] == ROTATED else _within_upright
        inside.append(within(box.float(), x, y).any(dim=0))
    return torch.stack(inside)


def _within_upright(boxes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return which places (H,) x (W,) lie in each box (G, H, W)."""
    x1, y1, x2, y2 = boxes.unsqueeze(-1).unbind(dim=1)
    in_rows = (y > y1) & (y < y2)
    in_columns = (x > x1) & (x < x2)
    return in_rows[:, :, None] & in_columns[:, None, :]


def _within_rotated(boxes: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return which places (H,) x (W,) lie in each rotated box (G, H, W)."""
    cx, cy, width, height, angle = boxes[..., None, None].unbind(dim=1)
    right, down = x[None, None, :] - cx, y[None, :, None] - cy
    along = right * angle.cos() + down * angle.sin()
    across = down * angle.cos() - right * angle.sin()
    return (along.abs() < width / 2) & (across.abs() < height / 2)
