"""What hooks switch on a student in mid-training, beside plain values of its parts."""

from copy import deepcopy
from typing import Any, List, NamedTuple, Sequence

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
#: their names, see ``SelfTeacher.follow_switches``. Pipelines (PipelineSwitchHook,
#: SwitchRecipeHook's ``train_pipeline``) and ``batch_augments`` are no parts of a
#: twin: it sees what the student's images were made to.
SWITCHES = (
    Switch('mmpretrain.SwitchRecipeHook', 'head', 'loss_module'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'margins'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'sinm_m'),
    Switch('mmpretrain.SetAdaptiveMarginsHook', 'head', 'threshold'),
)


def find_switches(student: BaseModel, twin: BaseModel) -> List[Switch]:
    """Return the switches whose values are equal in both, so that they are followed.

    What the user set otherwise for the twin stays.
    """
    return [
        switch
        for switch in SWITCHES
        if _has(student, switch)
        and _has(twin, switch)
        and _agree(student, twin, switch)
    ]


def follow_switches(
    student: BaseModel, twin: BaseModel, switches: Sequence[Switch]
) -> None:
    """Give the twin copies of what was switched on the student.

    Args:
        student: The model that the hooks see.
        twin: The self-teacher's.
        switches: From :func:`find_switches`, when both were built.
    """
    for switch in switches:
        if not _agree(student, twin, switch):
            value = getattr(getattr(student, switch.part), switch.attribute)
            setattr(getattr(twin, switch.part), switch.attribute, deepcopy(value))


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
    """Return the plain values of a module and of those in it, modes aside."""
    return [
        (name, type(part), key, value)
        for name, part in module.named_modules()
        for key, value in vars(part).items()
        if isinstance(value, (bool, int, float, str)) and key != 'training'
    ]
