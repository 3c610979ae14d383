"""The forms in which models hold feature maps: maps, tokens, pooled vectors."""

from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

Size = Tuple[int, int]
#: Class, distillation and register tokens that a sequence may begin with.
MAX_EXTRA_TOKENS = 8


@dataclass(frozen=True)
class Form:
    """How a tensor holds a feature map (N, C, H, W).

    Args:
        layout: 'map' (N, C, H, W), 'map_last' (N, H, W, C), 'tokens' (N, L, C),
            'tokens_last' (N, C, L), 'pooled' (N, C) or 'pooled_map' (N, C, 1, 1).
            L is H * W, and ``extra``.
        extra: Tokens before those of the map.
    """

    layout: str
    extra: int = 0

    def to_map(self, value: Tensor, image_size: Size) -> Tensor:
        """Return the map (N, C, H, W) that a tensor holds.

        Args:
            value: A tensor of this form.
            image_size: Height and width of the image. Tokens tell only how many
                places a map has; its sides are in the image's proportion.
        """
        if self.layout == 'map':
            return value
        if self.layout == 'map_last':
            return value.permute(0, 3, 1, 2)
        if self.layout == 'tokens':
            value = value[:, self.extra :].transpose(1, 2)
        return value.unflatten(2, sides(value.shape[2], image_size))

    def from_map(self, feat: Tensor) -> Tensor:
        """Return a map (N, C, H, W) in this form; extra tokens are its mean."""
        if self.layout == 'map':
            return feat
        if self.layout == 'map_last':
            return feat.permute(0, 2, 3, 1)
        if self.layout == 'tokens_last':
            return feat.flatten(2)
        if self.layout == 'pooled':
            return feat.mean(dim=(2, 3))
        if self.layout == 'pooled_map':
            return feat.mean(dim=(2, 3), keepdim=True)
        tokens = feat.flatten(2).transpose(1, 2)
        if not self.extra:
            return tokens
        extra = tokens.mean(dim=1, keepdim=True).expand(-1, self.extra, -1)
        return torch.cat([extra, tokens], dim=1)


def sides(places: int, image_size: Size) -> Size:
    """Return the height and width of a map with so many places.

    Of the whole numbers whose product it is, the two closest to the image's
    proportion.
    """
    height, width = image_size
    wanted = (places * height / width) ** 0.5
    found, best = (1, places), float('inf')
    for side in range(1, int(places**0.5) + 1):
        if places % side:
            continue
        for rows in (side, places // side):
            misfit = max(rows / wanted, wanted / rows)
            if misfit < best:
                found, best = (rows, places // rows), misfit
    return found


def in_proportion(size: Sequence[int], image_size: Size) -> bool:
    """Whether a map of this size can be that of the image, up to rounding."""
    (height, width), (whole_height, whole_width) = size, image_size
    return (
        0 < height <= whole_height
        and 0 < width <= whole_width
        and abs(height * whole_width - width * whole_height)
        < max(whole_height, whole_width)
    )


def find_grids(outputs: Iterable[Any], image_size: Size) -> List[Size]:
    """Return the sizes of the maps among outputs, as they first come.

    Args:
        outputs: Of any modules, for one image: tensors, or tuples with tensors
            and sizes.
        image_size: Height and width of the image.
    """
    grids: Dict[Size, None] = {}
    for output in outputs:
        for value in output if isinstance(output, (list, tuple)) else [output]:
            found: List[Sequence[int]] = []
            if isinstance(value, Tensor) and value.dim() == 4 and len(value) == 1:
                found = [value.shape[2:], value.shape[1:3]]
            elif _is_pair(value):
                found = [value]
            for size in found:
                if in_proportion(size, image_size):
                    grids[int(size[0]), int(size[1])] = None
                    break
    return list(grids)


def read_form(
    value: Any,
    image_size: Size,
    grids: Sequence[Size],
    extra: Optional[int] = None,
    channels: Optional[int] = None,
) -> Optional[Tuple[Form, Tuple[int, int, int]]]:
    """Tell in which form a tensor of one image holds a map.

    Args:
        value: Anything that a module returned for one image.
        image_size: Height and width of the image.
        grids: Sizes of maps that the model has, for tokens.
        extra: Number of tokens beside the map's, if it is known.
        channels: C, if it is known.

    Returns:
        tuple, optional: The form and (C, H, W) of the map; None if there is none.
    """
    if not isinstance(value, Tensor) or len(value) != 1:
        return None
    if value.dim() == 4:
        first, *_, last = value.shape[1:]
        if in_proportion(value.shape[2:], image_size):
            return Form('map'), (first, *_as_size(value.shape[2:]))
        if in_proportion(value.shape[1:3], image_size):
            return Form('map_last'), (last, *_as_size(value.shape[1:3]))
        return None
    if value.dim() != 3:
        return None
    return _read_tokens(value, image_size, grids, extra, channels)


def _read_tokens(
    value: Tensor,
    image_size: Size,
    grids: Sequence[Size],
    extra: Optional[int],
    channels: Optional[int],
) -> Optional[Tuple[Form, Tuple[int, int, int]]]:
    """Tell tokens (N, L, C) from (N, C, L); see :func:`read_form`."""
    one, two = value.shape[1:]
    places = {height * width: (height, width) for height, width in grids}
    found = []
    extras = [0] if extra is None else [extra]
    extras += [number for number in range(MAX_EXTRA_TOKENS + 1) if number not in extras]
    for number in extras:
        if one - number in places:
            found.append((Form('tokens', number), (two, *places[one - number])))
        if number == 0 and two in places:
            found.append((Form('tokens_last'), (one, *places[two])))
    if not found:  # no convolution made them, as with T2T
        for number in (0, 1, 2):
            size = sides(max(one - number, 1), image_size)
            if min(size) > 1 and in_proportion(size, image_size):
                found.append((Form('tokens', number), (two, *size)))
                break
    fitting = [entry for entry in found if entry[1][0] == channels]
    return next(iter(fitting or found), None)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) for side in value)
    )


def _as_size(shape: Sequence[int]) -> Size:
    height, width = shape
    return height, width
