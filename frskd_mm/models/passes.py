"""What one run of a model leaves behind."""

from dataclasses import dataclass
from typing import Any, Dict, List, Tuple

from mmengine.model import BaseModel
from torch import Tensor


@dataclass
class Pass:
    """One run of a model's ``loss``: its terms, feature maps and outputs.

    Attributes:
        model: The model that ran: a student, a twin or a teacher.
        losses: The host library's terms, by name.
        outputs: What the methods that ``Task.output_targets`` names returned,
            call by call.
        feats: The feature source's maps, per level (N, C, H, W), fine to
            coarse; none if no source was named.
        preacts: The same maps before their last ReLU, if they were asked for.
    """

    model: BaseModel
    losses: Dict[str, Any]
    outputs: Dict[str, List[Any]]
    feats: Tuple[Tensor, ...] = ()
    preacts: Tuple[Tensor, ...] = ()

    def output(self, name: str) -> Any:
        """Return the newest output of a recorded method."""
        return self.outputs[name][-1]

    @property
    def logits(self) -> Any:
        """What the compared head of a classifier (N, C) or segmentor returned."""
        return self.output('logits')

    def maps(self, preact: bool) -> Tuple[Tensor, ...]:
        """Return the maps, or what they were before their last ReLU."""
        return self.preacts if preact else self.feats


def map_size(level: Tensor) -> Tuple[int, int]:
    """Return height and width of a map (N, C, H, W)."""
    height, width = level.shape[2:]
    return height, width
