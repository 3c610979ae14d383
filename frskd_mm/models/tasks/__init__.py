"""How to read the models of each host library."""

from typing import Dict, Type

from mmengine.model import BaseModel

from .base import SOURCES, Task
from .classification import ClassificationTask
from .detection import DetectionTask
from .segmentation import SegmentationTask

__all__ = [
    'SOURCES',
    'ClassificationTask',
    'DetectionTask',
    'SegmentationTask',
    'Task',
    'task_of',
]

TASKS: Dict[str, Type[Task]] = {
    'mmdet': DetectionTask,
    'mmpretrain': ClassificationTask,
    'mmseg': SegmentationTask,
}


def task_of(student: BaseModel) -> Task:
    """Return the task of a built student, by the library it comes from.

    Raises:
        TypeError: If none of its base classes is a host library's model.
    """
    for cls in type(student).__mro__:
        host = cls.__module__.partition('.')[0]
        if host in TASKS:
            return TASKS[host]()
    raise TypeError(
        f'{type(student).__name__} is not a model of {sorted(TASKS)}, whose '
        'models can be distilled.'
    )
