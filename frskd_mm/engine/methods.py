"""The methods that a config can be wrapped with, and how they are read."""

from pathlib import Path
from typing import Any, Dict, List

from mmengine.config import Config, ConfigDict

import frskd_mm
from frskd_mm.utils.arguments import did_you_mean
from frskd_mm.utils.scope import type_name

from .config import load_config

PLAIN = 'none'
#: What mmpretrain's CrossEntropyLoss is without more settings.
CE = dict(loss_weight=1.0, use_sigmoid=False, use_soft=False, reduction='mean')
#: How the method files name the tasks.
TASKS = ('cls', 'det', 'seg')


def method_name(method: str) -> str:
    """Return what to call a method, given its name or the path of its file."""
    return Path(method).stem if method.endswith('.py') else method


def method_names(task: str) -> List[str]:
    """Return the methods for a task, 'cls', 'det' or 'seg', sorted.

    Example:
        >>> method_names('seg')[:3]
        ['auxiliary', 'byot', 'frskd']
    """
    return sorted(method_files(task))


def method_files(task: str) -> Dict[str, str]:
    """Return the files of the methods for a task, by the method's name."""
    folder = Path(frskd_mm.__file__).parent / '.mim' / 'configs' / '_base_' / 'methods'
    files = {}
    for path in folder.glob('*.py'):
        name, _, ending = path.stem.rpartition('_')
        if ending == task:
            files[name] = str(path)
        elif ending not in TASKS:
            files[path.stem] = str(path)
    return files


def read_method(method: str, task: str) -> Config:
    """Read a method's file, without the names that begin with an underscore.

    Args:
        method: Its name, or the path of a file.
        task: 'cls', 'det' or 'seg'.

    Raises:
        ValueError: If there is no such method for the task.
        FileNotFoundError: If there is no such file.
    """
    if method.endswith('.py'):
        return _without_variables(load_config(method))
    files = method_files(task)
    if method not in files:
        raise ValueError(
            f'There is no method {method!r} for this task ({task}).'
            f'{did_you_mean(method, [PLAIN, *sorted(files)])} There are: '
            f'{", ".join([PLAIN, *sorted(files)])}. One of your own is the path of '
            'its file, FILE.py.'
        )
    return _without_variables(Config.fromfile(files[method]))


def _without_variables(settings: Config) -> Config:
    for name in [name for name in settings if name.startswith('_')]:
        settings._cfg_dict.pop(name)
    return settings


def check_changes(method: str, cfg: Config, student: ConfigDict, changes: Any) -> None:
    """Refuse a method that would replace what the recipe chose for itself.

    Args:
        method: Its name.
        cfg: The plain config.
        student: Its model. A loss that is the head's default is written down in
            place, so that it can be replaced.
        changes: What the method merges into the student.

    Raises:
        ValueError: If it replaces a loss other than the cross-entropy, or augments.
    """
    if 'loss' in changes.get('head', {}):
        loss = student.head.setdefault('loss', dict(type='CrossEntropyLoss'))
        kind = type_name(loss['type'])
        if kind != 'CrossEntropyLoss':
            raise ValueError(
                f'{method} replaces the cross-entropy loss of the head, but '
                f'model.head.loss.type is {kind!r}. Use another method, or set '
                "model.head.loss=dict(type='CrossEntropyLoss')."
            )
        own = {key: loss[key] for key in loss if key not in ('type', '_scope_')}
        chosen = [key for key, value in own.items() if value != CE.get(key)]
        if chosen:
            raise ValueError(
                f'{method} replaces the cross-entropy loss of the head, whose '
                f'{", ".join(chosen)} would be lost. Take that out of model.head.loss, '
                'or write a method of your own, a file with the whole loss: '
                "model = dict(head=dict(loss=dict(_delete_=True, type='...')))."
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
