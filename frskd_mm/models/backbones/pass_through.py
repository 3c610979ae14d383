"""The backbone of the self-teacher: none."""

from typing import Any, Dict, List, Optional, Sequence

from mmengine.model import BaseModule, ModuleDict
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.forms import Form


@MODELS.register_module()
class PassThrough(BaseModule):
    """Hand on the feature maps that come in where images are expected.

    The self-teacher is the student's own architecture after its feature
    source, so a host's model class with this as backbone runs on features:
    ``self_teacher.loss(refined, data_samples)`` is the host's code.

    Args:
        template (list, optional): What the student's source returns, where that
            is not the maps as they are: nested lists, with a dict of ``level``,
            ``layout`` and ``extra`` (see ``Form``) for each map, and None. By
            default all maps are returned.
        eval_template (list, optional): The same in eval mode. The same by default.
        widths (dict[str, tuple[int, int]], optional): Levels whose channels a 1x1
            convolution changes, from the first number to the second.
    """

    @check_arguments()
    def __init__(
        self,
        template: Optional[List[Any]] = None,
        eval_template: Optional[List[Any]] = None,
        widths: Optional[Dict[str, Sequence[int]]] = None,
    ) -> None:
        super().__init__()
        self.template = template
        self.eval_template = eval_template or template
        if widths:
            self.adapters = ModuleDict(
                {
                    level: nn.Conv2d(before, after, 1)
                    for level, (before, after) in widths.items()
                }
            )

    def forward(self, feats: Sequence[Tensor]) -> Any:
        """Return the maps as a tuple, in the form of the student's own."""
        adapters = getattr(self, 'adapters', {})
        feats = [
            adapters[str(level)](feat) if str(level) in adapters else feat
            for level, feat in enumerate(feats)
        ]
        template = self.template if self.training else self.eval_template
        if template is None:
            return tuple(feats)
        return tuple(_fill(part, feats) for part in template)


def _fill(part: Any, feats: Sequence[Tensor]) -> Any:
    if part is None:
        return None
    if isinstance(part, dict):
        return Form(part['layout'], part['extra']).from_map(feats[part['level']])
    return [_fill(inner, feats) for inner in part]
