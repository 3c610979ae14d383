"""CrossKD: what the teacher's head makes of the student's features within a head."""

from typing import Any, Dict, List, Mapping

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from frskd_mm.utils.recorder import Replayer, Target

from .base import NO_CROSS_HEAD

BRANCHES = ('cls_convs', 'reg_convs')


class CutHead:
    """A dense head whose branches are cut behind one of their convolutions.

    The cut is behind the convolution's activation. The authors' code keeps the maps
    before it, but the activation then changes these in place.

    Args:
        name: Begins the names of the records.
        head: Its branches are ``ConvModule`` s in ``cls_convs`` and ``reg_convs``
            that all levels share.
        index: How many of a branch's convolutions lie before the cut.

    Raises:
        TypeError: If the head has no such branches.
        ValueError: If they are too short.
    """

    def __init__(self, name: str, head: BaseModule, index: int) -> None:
        self.name, self.head, self.index = name, head, index
        self.branches = {branch: _convolutions(head, branch) for branch in BRANCHES}
        shortest = min(len(convs) for convs in self.branches.values())
        if index > shortest:
            raise ValueError(
                f'cross_head={index} of the distiller, but the branches of '
                f'{type(head).__name__} have {shortest} convolutions. Set cross_head '
                f'to 1 to {shortest}, or stacked_convs of the head.'
            )

    @property
    def targets(self) -> Dict[str, Target]:
        """What is recorded of each branch, at the cut, by name."""
        return {
            f'{self.name}.{branch}': (convs[self.index - 1], 'forward')
            for branch, convs in self.branches.items()
        }

    def cross(
        self, student: Mapping[str, List[Any]], teacher: Mapping[str, List[Any]]
    ) -> Any:
        """Run the rest of this, the teacher's head on what the student's had there.

        The student's maps get the mean and standard deviation of the teacher's, for
        each channel of each level, and pass a ReLU. The head's parameters are
        constants, and its norms' statistics stay.

        Args:
            student: Outputs by name, of which the cut's are (N, C, H, W), level by
                level.
            teacher: The teacher's.

        Returns:
            Any: What the head's ``forward`` returns.
        """
        values: Dict[str, List[Any]] = {}
        targets: Dict[str, Target] = {}
        maps: List[Tensor] = []
        for branch, convs in self.branches.items():
            name = f'{self.name}.{branch}'
            pairs = zip(student[name], teacher[name])
            maps = [align(ours, theirs).relu() for ours, theirs in pairs]
            for number, skipped in enumerate(convs[: self.index]):
                targets[f'{name}.{number}'] = (skipped, 'forward')
                values[f'{name}.{number}'] = maps
        constants = {
            **{name: value.detach() for name, value in self.head.named_parameters()},
            **{name: value.clone() for name, value in self.head.named_buffers()},
        }
        with Replayer(targets, values):
            return torch.func.functional_call(self.head, constants, (maps,))


def align(student: Tensor, teacher: Tensor) -> Tensor:
    """Give a map each channel's mean and standard deviation of another.

    Source: jbwang1997/CrossKD@9f695b4, mmdet/models/detectors/crosskd_gfl.py
    (``align_scale``)

    Args:
        student: (N, C, H, W).
        teacher: (N, C, H, W); detached here.

    Returns:
        Tensor: (N, C, H, W).
    """
    teacher = teacher.detach()
    places = (0, 2, 3)
    mean = student.mean(places, keepdim=True)
    # The unbiased one, as in the source; there it is NaN for a single place, here 0.
    correction = min(1, student[:, 0].numel() - 1)
    std = student.std(places, correction=correction, keepdim=True)
    standard = (student - mean) / (std + 1e-6)
    return standard * teacher.std(
        places, correction=correction, keepdim=True
    ) + teacher.mean(places, keepdim=True)


def _convolutions(head: BaseModule, branch: str) -> List[nn.Module]:
    from mmcv.cnn import ConvModule

    convs = [*(getattr(head, branch, None) or [])]
    if not convs or not all(isinstance(conv, ConvModule) for conv in convs):
        raise TypeError(
            f'{type(head).__name__} cannot be cut: it has no {branch} that all levels '
            f'share. {NO_CROSS_HEAD}'
        )
    return convs
