"""Soft labels for every pixel."""

from typing import Any

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .soft_label_loss import SoftLabelLoss


@MODELS.register_module()
class PixelSoftLabelLoss(SoftLabelLoss):
    """:class:`SoftLabelLoss` with the temperature of the segmentation recipe.

    By default the logits are compared at the size at which the decode heads
    give them, and pixels whose label is ignored do not count. The authors'
    code compares upsampled logits at all pixels: ``upsample=True`` and
    ``mask_ignored=False``. Either way the loss is an average over pixels, so
    alpha keeps its meaning; upsampling costs memory.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, segmentation/utils/distill.py

    Args:
        temperature (float): K in the paper. Defaults to 1.0, as in the
            authors' segmentation code.
        **kwargs: Other arguments of :class:`SoftLabelLoss`.
    """

    @check_arguments()
    def __init__(self, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(temperature=temperature, **kwargs)
