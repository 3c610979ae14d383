"""Images between a pipeline and a picture."""

from typing import Any, Dict, NamedTuple, Optional, Tuple

import cv2
import numpy as np
from mmengine.model import BaseModel


class Seen(NamedTuple):
    """An image as a model is given it."""

    #: Packed by the pipeline: ``inputs`` (C, H, W) and ``data_samples``.
    packed: Dict[str, Any]
    #: File, or number in the test set.
    name: str
    #: Height and width of the file; None of images that are in memory.
    file_size: Optional[Tuple[int, int]] = None


def is_bgr(model: BaseModel, from_files: bool) -> bool:
    """Whether images enter a model's preprocessing as BGR.

    Args:
        model: With a ``data_preprocessor``.
        from_files: Whether the pipeline loads files, which gives BGR.
    """
    preprocessor = model.data_preprocessor
    converts = getattr(preprocessor, 'to_rgb', False)
    return from_files or bool(
        converts or getattr(preprocessor, '_channel_conversion', False)
    )


def pixels(seen: Seen, bgr: bool) -> Tuple[np.ndarray, np.ndarray]:
    """Return an image as the model sees it, and as predictions refer to it.

    Args:
        seen: From a pipeline.
        bgr: The order of its channels.

    Returns:
        tuple[np.ndarray, np.ndarray]: Both (H, W, 3) uint8 RGB. The second has the
        size of the file, without what was padded.
    """
    image = seen.packed['inputs'].permute(1, 2, 0).numpy()
    image = image.clip(0, 255).astype(np.uint8)
    if image.shape[2] == 3 and bgr:
        image = image[..., ::-1]
    elif image.shape[2] != 3:  # grey, or more channels than can be shown
        image = np.repeat(image[..., :1], 3, axis=2)
    image = np.ascontiguousarray(image)
    info = seen.packed['data_samples'].metainfo
    height, width = info.get('img_shape', image.shape[:2])[:2]
    original = image[:height, :width]
    rows, columns = info.get('ori_shape', original.shape[:2])[:2]
    return image, cv2.resize(original, (columns, rows))
