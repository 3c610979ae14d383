"""Fitting a student to methods that read several of its feature maps."""

from copy import deepcopy
from typing import Any, List, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel

from frskd_mm.models.tasks import ClassificationTask, Task
from frskd_mm.models.tasks.base import DryForwardError
from frskd_mm.utils.model import build_model

MAX_LEVELS = 4
#: Tried where a student cannot take the small image of the dry forward; the
#: backbone's own img_size takes the place of the first.
IMAGENET_SIZE = 224
LARGE_SIZE = (512, 512)

Shapes = List[Tuple[int, ...]]


def fit_levels(
    task: Task, student: ConfigDict, built: BaseModel, cfg: Config, distiller: Any
) -> None:
    """Set in place what a method that reads feature maps needs of a student.

    ``input_size`` of the distiller, if the student does not take the default, and
    ``out_indices`` of a classifier's backbone that returns its last map alone.

    Args:
        task: Of the student.
        student: Its config.
        built: The student built from it. Its backbone may return more maps
            afterwards.
        cfg: The whole plain config.
        distiller: The method's config.

    Raises:
        ValueError: If no size fits, or the backbone cannot return several maps.
    """
    if isinstance(task, ClassificationTask):
        _ask_for_levels(task, student, built, cfg, distiller)
    else:
        source = distiller.get('source') or task.default_source(built)
        _dry_shapes(task, student, built, distiller, source)


def _dry_shapes(
    task: Task, student: ConfigDict, built: BaseModel, distiller: Any, source: str
) -> Shapes:
    """Return the shapes of the source's maps; set ``input_size`` if it must be.

    Raises:
        ValueError: If the source gives no maps, or no size fits.
    """
    if 'input_size' in distiller:
        return task.feature_shapes(built, source, distiller.input_size)
    own = student.backbone.get('img_size', IMAGENET_SIZE)
    own = (own, own) if isinstance(own, int) else tuple(own)
    sizes = [task.input_size, own, LARGE_SIZE]
    for size in sizes:
        try:
            shapes = task.feature_shapes(built, source, size)
        except DryForwardError as error:
            # What the backbone lacks it lacks at any size.
            if size == sizes[-1] or isinstance(error.__cause__, AttributeError):
                raise
        else:
            break
    if size != task.input_size:
        distiller.input_size = size
    return shapes


def _ask_for_levels(
    task: Task, student: ConfigDict, built: BaseModel, cfg: Config, distiller: Any
) -> None:
    """Set ``out_indices`` of a classifier's backbone in place, if it needs to be.

    All maps up to the one that the classifier reads are tried out. Of each
    size the deepest is taken, and of these the coarsest four. If all have one
    size, as those of plain transformers, four at even distances are taken.

    Raises:
        ValueError: If the backbone cannot return several maps.
    """
    backbone = type(built.backbone).__name__
    indices = getattr(built.backbone, 'out_indices', None)
    if indices is None or len(_as_list(indices)) > 1:
        shapes = _dry_shapes(task, student, built, distiller, 'backbone')
        if len(shapes) > 1:
            return
        if indices is None:
            raise ValueError(
                f'{backbone} returns one map and has no out_indices to ask for more, '
                'but the method reads at least two. Use another backbone or method.'
            )
    tried = tuple(range(max(_as_list(indices)) + 1))
    shapes, added = _shapes_of_levels(task, student, built, cfg, distiller, tried)
    student.backbone.out_indices = choose_levels([shape[1:] for shape in shapes])
    text = f'Levels: {backbone} returns one map; set to out_indices='
    text += f'{student.backbone.out_indices}'
    if added and student.backbone.out_indices != tried:
        added = _added_parameters(built, build_model(cfg, student))
    if added:
        text += (
            f'. This adds parameters to the student, which distillation alone trains: '
            f'{", ".join(added)}'
        )
    print_log(text, logger='current')


def _shapes_of_levels(
    task: Task,
    student: ConfigDict,
    built: BaseModel,
    cfg: Config,
    distiller: Any,
    tried: Tuple[int, ...],
) -> Tuple[Shapes, List[str]]:
    """Return the shapes of the levels, and the parameters that all of them add.

    Most backbones read ``out_indices`` as they run, so the built one can be asked.
    Others have a norm for each map, and are built with them.

    Raises:
        ValueError: If the backbone does not return these levels.
    """
    try:
        built.backbone.out_indices = tried
        shapes = _dry_shapes(task, student, built, distiller, 'backbone')
        if len(shapes) == len(tried):
            return shapes, []
    except (AttributeError, DryForwardError):
        pass  # what is wrong is said below
    backbone = type(built.backbone).__name__
    by_hand = (
        'Set model.backbone.out_indices to two or more levels, the last of them the '
        'one that the head reads.'
    )
    trial = deepcopy(student)
    trial.backbone.out_indices = tried
    message = f'{backbone} does not return the levels {tried}:'
    try:
        model = build_model(cfg, trial)
    except Exception as error:
        raise ValueError(f'{message} {error} {by_hand}') from error
    try:
        shapes = _dry_shapes(task, student, model, distiller, 'backbone')
    except DryForwardError as error:
        raise ValueError(f'{message} {error} {by_hand}') from error
    if len(shapes) != len(tried):
        raise ValueError(
            f'{backbone} returns {len(shapes)} maps for out_indices={tried}. {by_hand}'
        )
    return shapes, _added_parameters(built, model)


def choose_levels(sizes: Sequence[Tuple[int, ...]]) -> Tuple[int, ...]:
    """Return which maps to refine.

    Args:
        sizes: Height and width of the maps, in the order of the backbone.

    Returns:
        tuple[int, ...]: Their indices; the last one is among them.
    """
    deepest = {size: index for index, size in enumerate(sizes)}
    if len(deepest) > 1:
        return tuple(sorted(deepest.values())[-MAX_LEVELS:])
    number = min(MAX_LEVELS, len(sizes))
    return tuple((i + 1) * len(sizes) // number - 1 for i in range(number))


def _added_parameters(before: BaseModel, after: BaseModel) -> List[str]:
    names = {name for name, _ in before.named_parameters()}
    return [name for name, _ in after.named_parameters() if name not in names]


def _as_list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]
