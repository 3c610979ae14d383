"""Fitting methods that read several feature maps to a student."""

from typing import Any, List, Tuple

from mmengine.config import Config
from mmengine.model import BaseModel

from frskd_mm.models.tasks import Task
from frskd_mm.models.tasks.base import DryForwardError
from frskd_mm.utils.image_size import find_image_size

#: Tried where a student cannot take the small image of the dry forward; the
#: backbone's own img_size takes the place of the first.
IMAGENET_SIZE = 224
LARGE_SIZE = (512, 512)


def fit_input_size(task: Task, cfg: Config, built: BaseModel, distiller: Any) -> None:
    """Set ``input_size`` of a distiller in place, if the default does not do.

    The student's config is left as it is: its maps are recorded where they arise.

    Args:
        task: Of the student.
        cfg: Its training config.
        built: The student built from it.
        distiller: The method's config.

    Raises:
        ValueError: If no size fits, or the student has no such maps.
    """
    source, stages = distiller.get('source'), distiller.get('stages')
    if 'input_size' in distiller:
        task.find_levels(built, source, distiller.input_size, stages)
        return
    own = cfg.model.backbone.get('img_size', IMAGENET_SIZE)
    own = (own, own) if isinstance(own, int) else tuple(own)
    sizes = [task.input_size, own, *_training_size(cfg), LARGE_SIZE]
    for size in sizes:
        try:
            task.find_levels(built, source, size, stages)
        except DryForwardError as error:
            if size == sizes[-1] or not error.of_size:
                raise
        else:
            break
    if size != task.input_size:
        distiller.input_size = size


def _training_size(cfg: Config) -> List[Tuple[int, int]]:
    """Return the size of the training images, if the config says it."""
    try:
        return [find_image_size(cfg)]
    except ValueError:
        return []
