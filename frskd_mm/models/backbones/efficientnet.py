"""EfficientNet as a feature extractor for dense prediction."""

from typing import Any, Sequence

from mmengine.model import BaseModule

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import at_least, check_arguments, length
from frskd_mm.utils.environment import has_host, missing_host


@MODELS.register_module(name='EfficientNetFeatures')
@check_arguments('EfficientNetFeatures', out_indices=(length(1), at_least(0)))
def efficientnet_features(
    arch: str = 'b0', out_indices: Sequence[int] = (2, 3, 4, 5), **kwargs: Any
) -> BaseModule:
    """Build mmpretrain's EfficientNet without the layers that nobody reads.

    mmpretrain runs all layers whatever ``out_indices`` is, so those behind the
    last one cost time and never get a gradient, which stops
    DistributedDataParallel. Names of weights are unchanged; those of the
    missing layers in a checkpoint are left over.

    Args:
        arch (str): 'b0' to 'b8', 'l2', 'es', 'em' or 'el'. Defaults to 'b0'.
        out_indices (Sequence[int]): Stages whose last maps are returned. The
            default (2, 3, 4, 5) has strides 4, 8, 16 and 32, and 24, 40, 112
            and 320 channels for b0 and b1.
        **kwargs: Other arguments of mmpretrain's ``EfficientNet``.

    Raises:
        ImportError: If mmpretrain is not installed.
        ValueError: If more stages are frozen than are kept.
    """
    if not has_host('mmpretrain'):
        raise missing_host('mmpretrain', 'frskd_mm.EfficientNetFeatures')
    from mmpretrain.models import EfficientNet

    backbone = EfficientNet(arch=arch, out_indices=tuple(out_indices), **kwargs)
    kept = max(out_indices) + 1
    if backbone.frozen_stages > kept:
        raise ValueError(
            f'EfficientNetFeatures keeps {kept} stages, up to the last of out_indices='
            f'{tuple(out_indices)}, got frozen_stages={backbone.frozen_stages}.'
        )
    del backbone.layers[kept:]
    return backbone
