"""The size of the training images, as a config says it."""

from typing import Any, Tuple

from mmengine.config import Config


def find_image_size(cfg: Config) -> Tuple[int, int]:
    """Return height and width of the config's training images.

    They are read from the data preprocessor, from the last transform of the
    training pipeline that crops or resizes, or else from that of the test pipeline.

    Raises:
        ValueError: If none names a size.
    """
    model = cfg.model.get('student', cfg.model)
    size = (model.get('data_preprocessor') or {}).get('size')
    if size is None:
        size = _pipeline_size(cfg.get('train_dataloader') or {})
    if size is None:
        size = _pipeline_size(cfg.get('test_dataloader') or {})
    if size is None:
        raise ValueError(
            f'{cfg.filename or "The config"} does not say how large its training '
            'images are. Give --image-size HEIGHT WIDTH.'
        )
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _pipeline_size(cfg: Any) -> Any:
    """Return the last size of nested data sets and transforms, height first."""
    found = None
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            found = _pipeline_size(part) or found
    elif isinstance(cfg, dict):
        for key in ('crop_size', 'scale'):
            value = cfg.get(key)
            if isinstance(value, int):
                return value
            if isinstance(value, (list, tuple)) and all(
                isinstance(side, int) and side > 0 for side in value
            ):
                # The hosts give scales as (width, height), and crops as (height,
                # width).
                return value if key == 'crop_size' else value[::-1]
        for key in ('dataset', 'datasets', 'pipeline', 'transforms'):
            found = _pipeline_size(cfg.get(key)) or found
    return found
