"""What hooks switch on a student in mid-training, beside plain values of its parts."""

from copy import deepcopy
from typing import Any, List, NamedTuple, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn


class Switch(NamedTuple):
    """An attribute of a part of the student that a hook of a host library sets.

    Attributes:
        hook: The hook's name.
        part: The student's part, by name.
        attribute: What the hook exchanges in it.
    """

    hook: str
    part: str
    attribute: str


#: Plain values of parts (``use_l1`` of mmdet's YOLOXModeSwitchHook) are followed by
#: their names, see :class:`Switches`. Pipelines (PipelineSwitchHook,
#: SwitchRecipeHook's ``train_pipeline``) and ``batch_augments`` are no parts of a
#: twin: it sees what the student's images were made to.
SWITCHES = (
    Switch('mmpretrain.SwitchRecipeHook', 'head', 'loss_module'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'margins'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'sinm_m'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'threshold'),
)


class Switches:
    """What a twin follows of its student: values that are equal in both at first.

    What the user set otherwise for the twin stays.

    Args:
        student: The model that the hooks see.
        twin: The self-teacher's, or that of a branch.
    """

    def __init__(self, student: BaseModel, twin: BaseModel) -> None:
        self.values = _common_settings(student, twin)
        self.parts = [
            switch
            for switch in SWITCHES
            if _has(student, switch)
            and _has(twin, switch)
            and _agree(student, twin, switch)
        ]

    def clear(self) -> None:
        """Follow nothing: the twin has the student's own parts."""
        self.values, self.parts = [], []

    def follow(self, student: BaseModel, twin: BaseModel) -> None:
        """Copy the plain values of parts, such as ``use_l1`` of a YOLOX head."""
        for part, name in self.values:
            value = getattr(getattr(student, part), name)
            setattr(getattr(twin, part), name, value)

    def follow_parts(self, student: BaseModel, twin: BaseModel) -> None:
        """Give the twin copies of the losses and margins that hooks exchanged."""
        for switch in self.parts:
            if not _agree(student, twin, switch):
                value = getattr(getattr(student, switch.part), switch.attribute)
                setattr(getattr(twin, switch.part), switch.attribute, deepcopy(value))


def _common_settings(student: BaseModel, twin: BaseModel) -> List[Tuple[str, str]]:
    """Return part and attribute names of equal plain values, modes aside."""
    settings = []
    for part, module in twin.named_children():
        if part == 'backbone':  # the twin's is a PassThrough
            continue
        own = vars(getattr(student, part))
        settings += [
            (part, name)
            for name, value in vars(module).items()
            if isinstance(value, (bool, int, float, str))
            and name != 'training'
            and not name.startswith('_')
            and name in own
            and own[name] == value
        ]
    return settings


def _has(model: BaseModel, switch: Switch) -> bool:
    return hasattr(getattr(model, switch.part, None), switch.attribute)


def _agree(student: BaseModel, twin: BaseModel, switch: Switch) -> bool:
    ours, theirs = (
        getattr(getattr(model, switch.part), switch.attribute)
        for model in (student, twin)
    )
    if isinstance(ours, nn.Module):
        return type(ours) is type(theirs) and _settings(ours) == _settings(theirs)
    if isinstance(ours, Tensor) and isinstance(theirs, Tensor):
        return torch.equal(ours, theirs)
    return bool(ours == theirs)


def _settings(module: nn.Module) -> List[Any]:
    """Return the plain values of a module and of those in it, modes aside.

    Nor buffers: a loss such as Seesaw's counts in them what it has seen.
    """
    return [
        (name, type(part), key, value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        # nn.Module's own begin with an underscore.
        if key != 'training' and key[0] != '_' and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
