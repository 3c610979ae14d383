"""Turning a plain config into one that trains with a method, and back."""

import os.path as osp
from copy import deepcopy
from typing import Any, Dict, List, Optional, Union

from mmengine.config import Config
from mmengine.registry import DefaultScope

from frskd_mm.models.distilled import DISTILLED, is_distilled
from frskd_mm.models.tasks import (
    ClassificationTask,
    DetectionTask,
    SegmentationTask,
    task_of,
)
from frskd_mm.utils.model import build_model, class_of
from frskd_mm.utils.random import isolated_rng
from frskd_mm.utils.scope import drop_own_scope, is_own, type_name

from .config import check_sample_indices, renamed
from .levels import fit_input_size
from .methods import PLAIN, check_changes, method_name, read_method

#: How the method files name the tasks.
TASK_NAMES = {ClassificationTask: 'cls', DetectionTask: 'det', SegmentationTask: 'seg'}
#: Variables that a method's files leave in a config that inherits them.
LEFTOVERS = ('student', 'teacher', 'distiller', 'dataset_wrapper')
DISTILLER_HOOKS = ('AggregatedPredictionHook', 'InsideHook', 'SelfTeacherMetricHook')


def wrap(
    cfg: Config, method: str = 'frskd', distiller: Optional[Dict[str, Any]] = None
) -> Config:
    """Let a host library's config train with a self-distillation method.

    The model becomes ``frskd_mm.Distilled`` around the model of the config.
    The rest of the config stays as it is, and so does the student: a method that
    reads several feature maps records them as they arise. :func:`student_config` is
    the way back.

    A method is a file ``configs/_base_/methods/NAME_TASK.py``, TASK being cls,
    det or seg, or ``NAME.py`` for all of them. It holds ``distiller``; if the
    method needs other batches also ``dataset_wrapper``, the config of a data
    set around the training set. Names that begin with an underscore are the file's
    own; whatever else it holds is merged into the config. A file without
    ``distiller``, as that of label smoothing, changes the plain model. The loss of
    the head is only replaced if it is the cross-entropy, and ``train_cfg.augments``
    only if there are none. A method of one's own is the path of such a file, ending
    in '.py'.

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
            model or a distilled one, the backbone has no maps as
            the method reads them, the config chose a loss or augments that the method
            would replace, or the method cannot use its training set.
        FileNotFoundError: If the method is a path, but there is no such file.

    Example:
        >>> from frskd_mm.engine import load_config
        >>> cfg = load_config('frskd_mm::digits/wrn10-1_digits.py')
        >>> cfg = wrap(cfg, 'frskd', distiller=dict(neck=dict(width=1)))
        >>> cfg.model.type, cfg.model.distiller.neck.width
        ('frskd_mm.Distilled', 1)
    """
    if method == PLAIN:
        return cfg
    _check_plain(cfg)
    name = osp.basename(cfg.filename or f'{type_name(cfg.model.type).lower()}.py')
    cfg = renamed(cfg, f'{method_name(method)}_{name}')
    drop_own_scope(list(cfg.values()))  # as load_config has
    model = student = cfg.model
    given = student.pop('distiller', {})
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), isolated_rng():
        built = build_model(cfg)
        task = task_of(built)
        settings = read_method(method, TASK_NAMES[type(task)])
        if 'distiller' in settings:
            settings.merge_from_dict(dict(distiller=given))
            settings.merge_from_dict(dict(distiller=distiller or {}))
            chosen = settings.pop('distiller')
            task.check_student(built)
            if getattr(class_of(chosen), 'reads_levels', False):
                fit_input_size(task, cfg, built, chosen)
            model = dict(type=DISTILLED, student=student, distiller=chosen)
        elif given or distiller:
            raise ValueError(
                f'{method} has no distiller, but settings for one were given: '
                f'{given or distiller}. Remove model.distiller.'
            )
    changes = settings.get('model', {})
    if 'loss' in changes.get('head', {}):
        task.check_student(built)
    check_changes(method, cfg, student, changes.get('student', changes))
    cfg.model = model
    _merge(cfg, settings)
    check_sample_indices(cfg)
    return cfg


def student_config(cfg: Config) -> Config:
    """Return the config of the plain student on the same recipe.

    Takes back what :func:`wrap` adds: the distiller, the pairs of the data loader and
    the import of this package. Hooks that need a distiller go, too. What a method
    changes in the student itself stays, such as Mixup.

    Args:
        cfg: Config whose model is ``frskd_mm.Distilled``; left as it is.

    Raises:
        ValueError: If the model is not distilled.
    """
    if not is_distilled(cfg.model):
        raise ValueError(
            f'The model of the config is {cfg.model.get("type")!r}, not '
            'frskd_mm.Distilled: it is a plain model already.'
        )
    plain = deepcopy(cfg.to_dict())
    preprocessor = plain['model'].get('data_preprocessor')
    plain['model'] = plain['model']['student']
    if preprocessor is not None:  # the student's, unless it has its own
        plain['model'].setdefault('data_preprocessor', preprocessor)
    for leftover in LEFTOVERS:
        plain.pop(leftover, None)
    if plain.get('train_dataloader'):
        plain['train_dataloader'] = _without_pairs(plain['train_dataloader'])
    drop_distiller_hooks(plain)
    if plain.get('custom_imports'):
        imports = [name for name in _imports(plain) if name != 'frskd_mm']
        plain['custom_imports']['imports'] = imports
        if not imports:
            plain.pop('custom_imports')
    return Config(plain)


def _without_pairs(part: Any) -> Any:
    """Return a part of a data loader's config that gives samples, not pairs."""
    if isinstance(part, (list, tuple)):
        return type(part)(map(_without_pairs, part))
    if not isinstance(part, dict):
        return part
    if is_own(part.get('type'), 'PairDataset'):
        return _without_pairs(part['dataset'])
    if is_own(part.get('type'), 'collate_pairs'):
        return dict(type=part.get('collate', 'default_collate'))
    return {key: _without_pairs(value) for key, value in part.items()}


def drop_distiller_hooks(cfg: Dict[str, Any]) -> None:
    """Take the hooks that a plain model refuses out of a config, in place."""
    hooks = cfg.get('custom_hooks') or []
    kept = [hook for hook in hooks if not _needs_distiller(hook)]
    if len(kept) < len(hooks):
        cfg['custom_hooks'] = kept
        if not kept:
            del cfg['custom_hooks']


def _needs_distiller(hook: Any) -> bool:
    """Whether a hook of custom_hooks is refused by a plain model."""
    kind = hook.get('type') if isinstance(hook, dict) else type(hook)
    return type_name(kind) in DISTILLER_HOOKS


def _check_plain(cfg: Config) -> None:
    if not isinstance(cfg.get('model'), dict) or 'type' not in cfg.model:
        raise ValueError(
            f'{cfg.filename or "The config"} has no model=dict(type=...) to distil. '
            'Is it one of the files that others inherit?'
        )
    if is_distilled(cfg.model):
        raise ValueError(
            'The model of the config is distilled already. Leave --method out, or '
            'give the config of its plain student.'
        )


def _merge(cfg: Config, settings: Config) -> None:
    """Merge what a method holds beside the distiller into the config, in place."""
    wrapper = settings.pop('dataset_wrapper', None)
    if wrapper is not None:
        loader = cfg.get('train_dataloader')
        if not loader:
            raise ValueError(
                'The method trains on pairs of images, but the config has no '
                'train_dataloader whose data set could give them. Give a complete '
                'config.'
            )
        loader.dataset = dict(**wrapper, dataset=loader.dataset)
    imports = [*_imports(cfg), *_imports(settings), 'frskd_mm']
    cfg.merge_from_dict(settings.to_dict())
    cfg.custom_imports = {**(cfg.get('custom_imports') or {}), 'imports': imports}


def _imports(cfg: Union[Config, dict]) -> List[str]:
    names = (cfg.get('custom_imports') or {}).get('imports', [])
    return [names] if isinstance(names, str) else list(names)
