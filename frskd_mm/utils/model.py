"""Building and unwrapping models as MMEngine's runner has them."""

from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Dict, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from frskd_mm.registry import MODELS as OWN_MODELS

from .checkpoint_loading import checkpoints_as_data
from .explain import explained
from .random import isolated_rng

RGB = 3


def build_model(cfg: Config, model: Optional[dict] = None) -> BaseModel:
    """Build a config's model as the runner does; the config stays as it is.

    Args:
        cfg: Config with ``model`` and, as mmpretrain has it, perhaps
            ``data_preprocessor`` beside it.
        model: Config of the model, if not ``cfg.model``.
    """
    model_cfg = deepcopy(cfg.model if model is None else model)
    if cfg.get('data_preprocessor'):
        model_cfg.setdefault('data_preprocessor', deepcopy(cfg.data_preprocessor))
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope'))
    with checkpoints_as_data(cfg), scope, explained(cfg):
        return MODELS.build(model_cfg)


def class_of(cfg: dict) -> type:
    """Return the class that a part's config names; ``object`` if none is known.

    An unknown type is reported when the part is built.
    """
    kind = cfg['type']
    found = OWN_MODELS.get(kind) if isinstance(kind, str) else kind
    return found if isinstance(found, type) else object


def unwrap(model: BaseModel) -> BaseModel:
    """Return the model inside a wrapper such as DistributedDataParallel."""
    return model.module if is_model_wrapper(model) else model


def interval_of(model: nn.Module) -> int:
    """Return on every how many-th step the self-teacher of a model runs."""
    return getattr(getattr(model, 'distiller', None), 'interval', 1)


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def input_channels(model: nn.Module, image_size: Tuple[int, int]) -> int:
    """Return how many channels the images of a model have, not always three.

    Three, unless the backbone does not run on that; then as many as its first
    convolution reads.

    Args:
        model: A model with a ``backbone``; left as it was.
        image_size: Height and width of an image that it takes.
    """
    backbone: Any = model.backbone
    convolutions = (m for m in backbone.modules() if isinstance(m, nn.Conv2d))
    first = next(convolutions, None)
    if first is None or first.in_channels == RGB:
        return RGB
    # A convolution may read pixels that were rearranged, as YOLOX's first does.
    image = next(model.parameters()).new_zeros(1, RGB, *image_size)
    try:
        with dry_run(model):
            backbone(image)
    except Exception:
        return first.in_channels
    return RGB


@contextmanager
def dry_run(model: nn.Module) -> Iterator[None]:
    """Run a model in eval mode, and leave it and the random numbers as they were.

    Some models keep the size of the last image, and tables made for it.
    """
    saved = [
        (module, dict(module._buffers), _plain_values(module))
        for module in model.modules()
    ]
    try:
        with torch.no_grad(), isolated_rng():
            model.eval()
            yield
    finally:
        for module, buffers, values in saved:
            module.__dict__.update(values)
            module._buffers.clear()
            module._buffers.update(buffers)


def _plain_values(module: nn.Module) -> Dict[str, Any]:
    """Return a module's settings and its mode, without what is in it."""
    kinds = (bool, int, float, str, tuple, type(None))
    return {k: v for k, v in vars(module).items() if isinstance(v, kinds)}
