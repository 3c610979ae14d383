"""Turning any upstream config into one that trains with a method."""

import os.path as osp
from copy import deepcopy
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope

import frskd_mm
from frskd_mm.models.tasks import (
    ClassificationTask,
    DetectionTask,
    SegmentationTask,
    Task,
    task_of,
)
from frskd_mm.models.tasks.base import DryForwardError
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import did_you_mean
from frskd_mm.utils.model import build_model
from frskd_mm.utils.random import isolated_rng

from .config import check_sample_indices, load_config

PLAIN = 'none'
#: How the method files name the tasks.
TASK_NAMES = {ClassificationTask: 'cls', DetectionTask: 'det', SegmentationTask: 'seg'}
MAX_LEVELS = 4
#: Tried where a student cannot take the small image of the dry forward; the
#: backbone's own img_size takes the place of the first.
IMAGENET_SIZE = 224
LARGE_SIZE = (512, 512)


def wrap(
    cfg: Config, method: str = 'frskd', distiller: Optional[Dict[str, Any]] = None
) -> Config:
    """Let a host library's config train with a self-distillation method.

    The model becomes ``frskd_mm.Distilled`` around the model of the config.
    The rest of the config stays as it is. A classifier whose backbone returns
    its last map alone is asked for several where the method reads several.

    A method is a file ``configs/_base_/methods/NAME_TASK.py``, TASK being cls,
    det or seg, or ``NAME.py`` for all of them. It holds ``distiller``; if the
    method needs other batches also ``dataset_wrapper``, the config of a data
    set around the training set. Whatever else it holds is merged into the
    config. A file without ``distiller``, as that of label smoothing, changes the
    plain model. The loss of the head is only replaced if it is the cross-entropy,
    and ``train_cfg.augments`` only if there are none. A method of one's own is the
    path of such a file, ending in '.py'.

    Args:
        cfg: Config of mmpretrain, mmseg or mmdet, or one's own of that form;
            left as it is. If its model has a ``distiller``, as
            ``--cfg-options model.distiller.neck.width=1`` makes one, these
            settings are merged into the method's.
        method: Name of a method or path of its file, or 'none' for the plain
            model.
        distiller: More settings to merge into the method's.

    Returns:
        Config: Complete on its own; with 'none' the given one.

    Raises:
        ValueError: If the method is unknown for the task, the config has no
            model or a distilled one, the backbone does not give the maps that
            the method reads, the config chose a loss or augments that the method
            would replace, or the method cannot use its training set.
        FileNotFoundError: If the method is a path, but there is no such file.

    Example:
        >>> cfg = load_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py')
        >>> cfg.work_dir = 'work_dirs/retinanet'
        >>> train(wrap(cfg, 'frskd', distiller=dict(neck=dict(width=2))))
    """
    if method == PLAIN:
        return cfg
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        raise ValueError(
            f'{cfg.filename or "The config"} has no model=dict(type=...) to distil. '
            'Is it one of the files that others inherit?'
        )
    if cfg.model.type == 'frskd_mm.Distilled':
        raise ValueError(
            'The model of the config is distilled already. Leave --method out, or '
            'give the config of its plain student.'
        )
    cfg = deepcopy(cfg)
    student = deepcopy(cfg.model)
    given = student.pop('distiller', {})
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), isolated_rng():
        built = build_model(cfg, student)
        task = task_of(built)
        settings = _read_method(method, TASK_NAMES[type(task)])
        if 'distiller' in settings:
            settings.merge_from_dict(dict(distiller=given))
            settings.merge_from_dict(dict(distiller=distiller or {}))
            chosen = settings._cfg_dict.pop('distiller')
            reads_levels = getattr(MODELS.get(chosen.type), 'reads_levels', False)
            if reads_levels:
                input_size = _choose_input_size(task, student, built, chosen)
                if isinstance(task, ClassificationTask):
                    _ask_for_levels(task, student, built, cfg, input_size)
            model = dict(type='frskd_mm.Distilled', student=student, distiller=chosen)
        elif given or distiller:
            raise ValueError(
                f'{method} has no distiller, but settings for one were given: '
                f'{given or distiller}. Remove model.distiller.'
            )
        else:
            model = student
        changes = settings.get('model', {})
        _check_changes(method, cfg, student, changes.get('student', changes))
    cfg.model = model
    wrapper = settings._cfg_dict.pop('dataset_wrapper', None)
    if wrapper is not None:
        loader = cfg.train_dataloader
        loader.dataset = dict(**wrapper, dataset=loader.dataset)
    given_imports = [cfg.get('custom_imports'), settings.get('custom_imports')]
    cfg.merge_from_dict(settings.to_dict())
    imports = [n for given in given_imports if given for n in _as_list(given.imports)]
    others = cfg.get('custom_imports') or {}
    cfg.custom_imports = {**others, 'imports': [*imports, 'frskd_mm']}
    check_sample_indices(cfg)
    name = osp.basename(cfg.filename or f'{built.__class__.__name__.lower()}.py')
    # The runner writes the config into the work directory under this name.
    object.__setattr__(cfg, '_filename', f'{method_name(method)}_{name}')
    return cfg


def method_name(method: str) -> str:
    """Return what to call a method, given its name or the path of its file."""
    return Path(method).stem if method.endswith('.py') else method


def method_names(task: str) -> List[str]:
    """Return the methods for a task, 'cls', 'det' or 'seg', sorted."""
    return sorted(_method_files(task))


def _method_files(task: str) -> Dict[str, str]:
    """Return the files of the methods for a task, by the method's name."""
    folder = Path(frskd_mm.__file__).parent / '.mim' / 'configs' / '_base_' / 'methods'
    files = {}
    for path in folder.glob('*.py'):
        name, _, ending = path.stem.rpartition('_')
        if ending == task:
            files[name] = str(path)
        elif ending not in TASK_NAMES.values():
            files[path.stem] = str(path)
    return files


def _read_method(method: str, task: str) -> Config:
    if method.endswith('.py'):
        return load_config(method)
    files = _method_files(task)
    if method not in files:
        raise ValueError(
            f'There is no method {method!r} for this task ({task}).'
            f'{did_you_mean(method, [PLAIN, *sorted(files)])} There are: '
            f'{", ".join([PLAIN, *sorted(files)])}. One of your own is the path of '
            'its file, FILE.py.'
        )
    return Config.fromfile(files[method])


def _check_changes(method: str, cfg: Config, student: ConfigDict, changes: Any) -> None:
    """Refuse a method that would replace what the recipe chose for itself.

    Args:
        method: Its name.
        cfg: The plain config.
        student: Its model. A loss that is the head's default is written down in
            place, so that it can be replaced.
        changes: What the method merges into the student.
    """
    if 'loss' in changes.get('head', {}):
        loss = student.head.setdefault('loss', dict(type='CrossEntropyLoss'))['type']
        loss = getattr(loss, '__name__', loss)  # a class in configs that import
        if loss.split('.')[-1] != 'CrossEntropyLoss':
            raise ValueError(
                f'{method} replaces the cross-entropy loss of the head, but '
                f'model.head.loss.type is {loss!r}. Use another method, or set '
                "model.head.loss=dict(type='CrossEntropyLoss')."
            )
    if 'augments' in changes.get('train_cfg', {}):
        preprocessor = student.get('data_preprocessor') or cfg.get('data_preprocessor')
        given = (student.get('train_cfg') or {}).get('augments')
        given = given or (preprocessor or {}).get('batch_augments')
        if given and given != changes.train_cfg.augments:
            raise ValueError(
                f'{method} sets model.train_cfg.augments, but the recipe mixes images '
                f'already, with {given}. Use a method that leaves them as they are, '
                'such as frskd, or take them out of the config.'
            )


def _choose_input_size(
    task: Task, student: ConfigDict, built: BaseModel, distiller: ConfigDict
) -> Tuple[int, int]:
    """Return a size that the backbone takes; set it if it is not the default.

    Raises:
        ValueError: If there is none.
    """
    if 'input_size' in distiller:
        return distiller.input_size
    own = student.backbone.get('img_size', IMAGENET_SIZE)
    own = (own, own) if isinstance(own, int) else tuple(own)
    source = distiller.get('source') or task.default_source(built)
    sizes = [task.input_size, own, LARGE_SIZE]
    for size in sizes:
        try:
            task.feature_shapes(built, source, size)
        except DryForwardError:
            if size == sizes[-1]:
                raise
        else:
            break
    if size != task.input_size:
        distiller.input_size = size
    return size


def _ask_for_levels(
    task: Task,
    student: ConfigDict,
    built: BaseModel,
    cfg: Config,
    input_size: Tuple[int, int],
) -> None:
    """Set ``out_indices`` of a classifier's backbone in place, if it needs to be.

    All maps up to the one that the classifier reads are tried out. Of each
    size the deepest is taken, and of these the coarsest four. If all have one
    size, as those of plain transformers, four at even distances are taken.

    Raises:
        ValueError: If the backbone cannot return several maps.
    """
    if len(task.feature_shapes(built, 'backbone', input_size)) > 1:
        return
    backbone = type(built.backbone).__name__
    by_hand = (
        'Set model.backbone.out_indices to two or more levels, the last of them the '
        'one that the head reads.'
    )
    indices = getattr(built.backbone, 'out_indices', None)
    if indices is None:
        raise ValueError(
            f'{backbone} returns one map and has no out_indices to ask for more, but '
            'the method reads at least two. Use another backbone or method.'
        )
    tried = tuple(range(max(_as_list(indices)) + 1))
    trial = deepcopy(student)
    trial.backbone.out_indices = tried
    try:
        model = build_model(cfg, trial)
        shapes = task.feature_shapes(model, 'backbone', input_size)
    except Exception as error:
        raise ValueError(
            f'{backbone} does not return the levels {tried}: {error} {by_hand}'
        ) from error
    if len(shapes) != len(tried):
        raise ValueError(
            f'{backbone} returns {len(shapes)} maps for out_indices={tried}. {by_hand}'
        )
    student.backbone.out_indices = choose_levels([shape[1:] for shape in shapes])
    text = f'Levels: {backbone} returns one map; set to out_indices='
    text += f'{student.backbone.out_indices}'
    added = _added_parameters(built, build_model(cfg, student))
    if added:
        text += (
            f'. This adds parameters to the student, which distillation alone trains: '
            f'{", ".join(added)}'
        )
    print_log(text, logger='current')


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
