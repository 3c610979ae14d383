"""Methods that train for another time than the recipe says."""

import math
from copy import deepcopy
from typing import Any, Dict, List, Tuple

from mmengine.config import Config

MARK = '@'
#: What a scheduler of MMEngine counts in epochs or iterations.
TIMES = ('begin', 'end', 'T_max', 'step_size', 'total_steps')
#: What a distiller's ``WeightSchedule`` counts so, unless it is a fraction.
DISTILLATION_TIMES = ('begin', 'end', 'ramp_end', 'decay_begin')


def split_length(method: str) -> Tuple[str, float]:
    """Return the method of ``METHOD@FACTOR`` and the factor, 1.0 without one.

    Raises:
        ValueError: If the factor is not a positive number.
    """
    name, mark, factor = method.rpartition(MARK)
    if not mark or factor.endswith('.py'):
        return method, 1.0
    try:
        length = float(factor)
    except ValueError:
        length = 0.0
    if not 0 < length < float('inf'):
        raise ValueError(
            f'{method}: what follows {MARK} must be the factor on the length of the '
            f'training, a positive number as in {name}{MARK}1.5.'
        )
    return name, length


def lengthen(cfg: Config, factor: float) -> Config:
    """Return a config that trains ``factor`` times as long.

    The learning rate's schedule is stretched with it, and when a distiller's terms
    act. Times in hooks stay as they are.

    Args:
        cfg: Complete training config; left as it is.
        factor: 1.5 for half as many epochs, or iterations, again; rounded to whole
            ones, at least one.

    Raises:
        ValueError: If the config does not say how long it trains.
    """
    if factor == 1.0:
        return cfg
    cfg = deepcopy(cfg)
    train_cfg = cfg.get('train_cfg') or {}
    units = [key for key in ('max_epochs', 'max_iters') if train_cfg.get(key)]
    if not units:
        raise ValueError(
            'The config has neither train_cfg.max_epochs nor train_cfg.max_iters, so '
            f'no method can train {factor:g} times as long.'
        )
    before = {key: train_cfg[key] for key in units}
    for key in units:
        train_cfg[key] = max(1, _stretch(train_cfg[key], factor))
    for scheduler in _schedulers(cfg):
        fills = scheduler.get('T_max') == _duration(scheduler)
        _stretch_milestones(scheduler, factor, before, train_cfg)
        for key in TIMES:
            if scheduler.get(key) is not None:
                scheduler[key] = _stretch(scheduler[key], factor)
        duration = _duration(scheduler)
        if duration is not None and duration < 1:  # was rounded away
            scheduler['end'] = scheduler.get('begin', 0) + 1
        if fills and 'T_max' in scheduler:
            scheduler['T_max'] = _duration(scheduler)
    stretch_distillation(cfg, factor)
    return cfg


def _schedulers(cfg: Config) -> List[Dict[str, Any]]:
    """Return the learning rate's schedules, of all optimisers."""
    found = cfg.get('param_scheduler') or []
    if not isinstance(found, dict):
        return list(found)
    if 'type' in found:
        return [found]
    lists = [s if isinstance(s, (list, tuple)) else [s] for s in found.values()]
    return [scheduler for schedulers in lists for scheduler in schedulers]


def _stretch_milestones(
    scheduler: Dict[str, Any],
    factor: float,
    before: Dict[str, int],
    after: Dict[str, int],
) -> None:
    """Stretch the learning rate's steps; none is rounded away.

    Args:
        scheduler: Changed in place; its ``begin`` is not stretched yet.
        factor: By how much.
        before: Epochs or iterations of the training as it was.
        after: The same as it is now.
    """
    unit = 'max_epochs' if scheduler.get('by_epoch', True) else 'max_iters'
    begin = scheduler.get('begin', 0)
    last = after.get(unit, 0) - 1 - _stretch(begin, factor)
    stretched = []
    for milestone in scheduler.get('milestones') or ():
        was_reached = begin + milestone < before.get(unit, 0)
        milestone = _stretch(milestone, factor)
        stretched.append(min(milestone, max(1, last)) if was_reached else milestone)
    if stretched:
        scheduler['milestones'] = stretched


def length_of(cfg: Config) -> int:
    """Return the epochs of a training, or its iterations."""
    return cfg.train_cfg.get('max_epochs') or cfg.train_cfg.get('max_iters')


def stretch_distillation(cfg: Config, factor: float) -> None:
    """Stretch times of a distiller's schedule that are no fractions, in place."""
    distiller = (cfg.get('model') or {}).get('distiller') or {}
    schedule = distiller.get('weight_schedule') or {}
    for key in DISTILLATION_TIMES:
        if (schedule.get(key) or 0) >= 1:
            schedule[key] = _stretch(schedule[key], factor)


def _duration(scheduler: Any) -> Any:
    """Return for how long a scheduler acts; None if it has no end."""
    end = scheduler.get('end')
    return None if end is None else end - scheduler.get('begin', 0)


def _stretch(time: Any, factor: float) -> Any:
    """Multiply a time; what was no 0 remains none."""
    if not 0 < time < float('inf'):
        return time
    return max(1, math.floor(time * factor + 0.5))
