"""The backbone of the self-teacher: none."""

from typing import Sequence, Tuple

from mmengine.model import BaseModule
from torch import Tensor

from frskd_mm.registry import MODELS


@MODELS.register_module()
class PassThrough(BaseModule):
    """Hand on the feature maps that come in where images are expected.

    The self-teacher is the student's own architecture after its feature
    source, so a host's model class with this as backbone runs on features:
    ``self_teacher.loss(refined, data_samples)`` is the host's code.
    """

    def forward(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Return the maps as a tuple."""
        return tuple(feats)
