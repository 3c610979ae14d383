"""What a self-teacher asks of the neck that refines the student's maps."""

from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from frskd_mm.utils.model import dry_run


class RefiningNeck(BaseModule):
    """A neck that states what it gives.

    Any registered neck can be a self-teacher's, if it takes ``in_channels`` and
    returns as many maps as it is given, each of its level's size. A subclass of
    this says besides, without being run, what comes out, and may leave out what
    never gets a gradient.

    Attributes:
        in_channels: Channels c_i of the maps that it takes, fine to coarse.
        out_channels: Channels d_i of the maps that it returns.
    """

    in_channels: List[int]
    out_channels: List[int]

    @property
    def output_norms(self) -> Optional[List[nn.Module]]:
        """The norm that ends each map before its activation, if all have one."""
        return None

    @classmethod
    def settings_for(cls, levels_read: Sequence[int]) -> Dict[str, Any]:
        """Return settings that spare what a reader of the maps does not need.

        Args:
            levels_read: The levels that are read, sorted. The others' maps are
                returned, but never get a gradient.
        """
        return {}


def learn_neck(
    neck: nn.Module, shapes: Sequence[Tuple[int, ...]], levels_read: Sequence[int]
) -> List[int]:
    """Find out what a neck gives, and freeze what would never be trained.

    It is run once on zeros. A :class:`RefiningNeck` keeps the number and the sizes of
    the maps.

    Args:
        neck: The built neck.
        shapes: (C, H, W) of the maps that it will take, fine to coarse.
        levels_read: The levels whose refined maps are read.

    Returns:
        list[int]: Channels d_i of its maps.

    Raises:
        ValueError: If it does not return a map for each, of the same size.
    """
    parameter = next(neck.parameters(), torch.zeros(()))
    feats = [parameter.new_zeros(1, *shape) for shape in shapes]
    with dry_run(neck), torch.enable_grad():
        maps: Sequence[Tensor] = neck(feats)
    sizes = [tuple(feat.shape[2:]) for feat in maps]
    if sizes != [shape[1:] for shape in shapes]:
        raise ValueError(
            f'{type(neck).__name__} returns maps of sizes {sizes} for maps of '
            f'{[tuple(shape[1:]) for shape in shapes]}, but the self-teacher refines '
            'each map at its own size. Change the neck of the distiller, its num_outs '
            "for example, or use dict(type='frskd_mm.BiFPNc')."
        )
    read = torch.stack(
        [feat.sum() for level, feat in enumerate(maps) if level in levels_read]
    ).sum()
    trained = [param for param in neck.parameters() if param.requires_grad]
    grads = torch.autograd.grad(read, trained, allow_unused=True) if trained else ()
    for param, grad in zip(trained, grads):
        # DistributedDataParallel would wait for gradients that never come.
        param.requires_grad_(grad is not None)
    return [feat.shape[1] for feat in maps]
