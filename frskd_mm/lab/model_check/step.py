"""Building a model and running it on random images, plain or distilled."""

from typing import Any, Dict, List, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import set_random_seed
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from frskd_mm.lab.benchmark.inference import flatten
from frskd_mm.lab.trial import random_batch
from frskd_mm.utils.model import build_model

#: Heights and widths that are tried until the plain model trains a step.
IMAGE_SIZES = {'mmpretrain': (64, 32, 224)}
DENSE_SIZES = (128, 256, 512)
#: How many regions of an image are kept, as proposals or detections, and how many
#: are sampled, at most.
NUM_KEPT, NUM_SAMPLED = 50, 16
#: Where all weights of a layer are zero at first, their spread here.
SPREAD = 0.02
LEARNING_RATE = 1e-3


def lighten(cfg: Config) -> None:
    """Spare work that says nothing here, in place: many regions, large paddings.

    Args:
        cfg: Config of a plain model.
    """
    preprocessor = cfg.model.get('data_preprocessor') or {}
    preprocessor.pop('batch_augments', None)  # they pad to the full size
    _lower_regions(cfg.model)


def _lower_regions(part: Any) -> None:
    """Lower the numbers of sampled and kept regions in a part, in place."""
    if isinstance(part, (list, tuple)):
        for inner in part:
            _lower_regions(inner)
    elif isinstance(part, dict):
        is_sampler = 'Sampler' in str(part.get('type'))
        key, most = ('num', NUM_SAMPLED) if is_sampler else ('max_per_img', NUM_KEPT)
        if isinstance(part.get(key), int):
            part[key] = min(part[key], most)
        for inner in part.values():
            _lower_regions(inner)


def image_sizes(cfg: Config) -> List[int]:
    """Return the heights and widths to try; of a classifier its own, if it has one."""
    own = (cfg.model.get('backbone') or {}).get('img_size')
    own = max(own) if isinstance(own, (list, tuple)) else own
    if cfg.default_scope == 'mmpretrain' and isinstance(own, int):
        return [own]
    return list(IMAGE_SIZES.get(cfg.default_scope, DENSE_SIZES))


def build(cfg: Config) -> BaseModel:
    """Build and initialise a model as the runner does, from one seed."""
    set_random_seed(0)
    MessageHub.get_current_instance().update_info('epoch', 0)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = revert_sync_batchnorm(build_model(cfg))
        model.init_weights()
    return model


def losses_of(model: BaseModel, cfg: Config, size: int) -> Dict[str, Any]:
    """Run the forward of a training step, in which every layer has a say.

    Args:
        model: From :func:`build`.
        cfg: Its config.
        size: Height and width of the images.
    """
    spread_zeros(model)
    model.train()
    batch = _batch(model, cfg, size, training=True)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return model(**batch, mode='loss')


def _batch(model: BaseModel, cfg: Config, size: int, training: bool) -> Dict[str, Any]:
    """Return two random images of one seed, preprocessed."""
    set_random_seed(0)
    batch = random_batch(cfg, batch_size=2, image_size=(size, size), num_classes=2)
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'size', None) is not None:
        preprocessor.size = (size, size)  # mmseg pads to that of its training images
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return preprocessor(batch, training=training)


def spread_zeros(model: nn.Module) -> None:
    """Give layers whose weights all start at zero others, in place.

    Some heads do: all classes are then equally likely to the student and to the
    self-teacher, which therefore have nothing to tell.
    """
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(SPREAD * noise)


def trainable(model: nn.Module) -> List[Tuple[str, nn.Parameter]]:
    """Return the parameters that an optimiser gets, with their names."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


def optimise(model: BaseModel) -> None:
    """Take a step, so that the weights are not those of the seed any more."""
    parameters = [parameter for _, parameter in trainable(model)]
    torch.optim.SGD(parameters, lr=LEARNING_RATE).step()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def answers(model: BaseModel, cfg: Config, size: int) -> List[Tensor]:
    """Return what a model predicts or, if that is nothing, its raw outputs or maps.

    mmdetection's SSD trains, but cannot predict, and its cascades have no raw outputs
    of images without proposals. One that cannot predict where the other can gives
    another number of tensors.

    Args:
        model: Plain or distilled.
        cfg: Config of the plain model.
        size: Height and width of the images.
    """
    model.eval()
    for mode in ('predict', 'tensor'):
        batch = _batch(model, cfg, size, training=False)
        set_random_seed(0)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            try:
                found = flatten(_predicted(model(**batch, mode=mode)))
            except Exception:
                found = []
        if any(tensor.numel() for tensor in found):
            return found
    return flatten(model.extract_feat(batch['inputs']))


def _predicted(answer: Any) -> Any:
    """Return an output without the annotations that data samples carry along."""
    if isinstance(answer, (list, tuple)):
        return [_predicted(part) for part in answer]
    if isinstance(answer, BaseDataElement):
        annotations = ('gt_', 'ignored_')
        return {k: v for k, v in answer.items() if not k.startswith(annotations)}
    return answer
