"""A short trial of methods on a config of one's own, and what it lets expect."""

import logging
from typing import Any, Dict, List, Optional, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from frskd_mm.engine.config import load_config
from frskd_mm.engine.methods import PLAIN
from frskd_mm.engine.wrap import TASK_NAMES
from frskd_mm.lab.statistics import Difference
from frskd_mm.models.tasks import task_of
from frskd_mm.utils.model import build_model

from .grid import (
    Run,
    check_config,
    finished_before,
    method_of,
    plan_runs,
    results_of,
)
from .length import MARK, length_of, lengthen, split_length
from .quality import Column
from .summary import Summary

#: What is tried beside the plain student, by task, for want of a wish.
METHODS = {
    'cls': ('label-smoothing', 'frskd-f-attached'),
    'seg': ('frskd-residual',),
    'det': ('frskd-residual',),
}
#: The rival of every method: the plain student for about as long in all.
EQUAL_TIME = f'{PLAIN}{MARK}1.5'
PART, SEEDS = 0.25, (0, 1)
#: By how much of it the part may be rounded without a word.
TOLERANCE = 0.1


def plan_quick(
    config: str,
    out: str,
    methods: Optional[Sequence[str]] = None,
    seeds: Sequence[int] = SEEDS,
    part: float = PART,
    options: Optional[Dict[str, Any]] = None,
    metric: Optional[str] = None,
) -> List[Run]:
    """Plan a grid over a part of a config's schedule.

    The learning rate's schedule is shortened with the training. What the methods
    are judged by is the validation data, if the config has any, so that the test
    data stay unseen; a config in which both are the same is warned of. The plain
    student and the plain student for 1.5 times as long are always among the runs.

    Args:
        config: Config of the plain student.
        out: The trial's folder; its ``recipe.py`` is the shortened config.
        methods: Names or files as of :func:`plan_grid`; by default those that did
            best, or harmed least, of the task's: see :data:`METHODS`.
        seeds: Seeds; each method is trained once with each.
        part: Fraction of the schedule, over 0 and at most 1.
        options: Values that replace the config's, by dotted key.
        metric: The quality that counts, see :func:`plan_grid`.

    Returns:
        list[Run]: All methods with the first seed, then with the next one.

    Raises:
        ValueError: If ``part`` is out of range, the config does not say how long it
            trains, or as of :func:`plan_grid`.
        FileNotFoundError: If there is no such config or file of a method.
    """
    if not 0 < part <= 1:
        raise ValueError(
            f'The part of the schedule is over 0 and at most 1, not {part}.'
        )
    whole = load_config(config, options)
    check_config(whole, config)
    cfg = lengthen(whole, part)
    _check_part(whole, cfg, part)
    if methods is None:
        methods = METHODS[_task(cfg)]
    _skip_validation(cfg)
    if cfg.get('val_dataloader') and cfg.get('val_evaluator'):
        tested = cfg.get('test_dataloader') or {}
        if cfg.val_dataloader.get('dataset') == tested.get('dataset'):
            print_log(
                'The trial judges by val_dataloader, whose data are the test data '
                'here: what is chosen by it, is chosen on the test data. Name others '
                'with --cfg-options val_dataloader.dataset...',
                logger='current',
                level=logging.WARNING,
            )
        for name in ('dataloader', 'evaluator'):
            cfg[f'test_{name}'] = cfg[f'val_{name}']
        # Not that of the validation: a ValLoop would run what hooks do after one.
        cfg.test_cfg = cfg.get('test_cfg') or {}
    else:
        print_log(
            'The trial judges by the test data, for want of val_dataloader and '
            'val_evaluator: what is chosen by it, is chosen on the test data.',
            logger='current',
            level=logging.WARNING,
        )
    chosen = list(dict.fromkeys([PLAIN, *map(method_of, methods), EQUAL_TIME]))
    return plan_runs(cfg, config, chosen, seeds, out, metric, part)


def trained_part(
    config: str, part: float, options: Optional[Dict[str, Any]] = None
) -> float:
    """Return the part of a schedule that is trained: of whole epochs or iterations.

    Args:
        config: As of :func:`plan_quick`.
        part: The part that was asked for.
        options: As of :func:`plan_quick`.
    """
    cfg = load_config(config, options)
    return length_of(lengthen(cfg, part)) / length_of(cfg)


def _check_part(whole: Config, cfg: Config, part: float) -> None:
    """Warn of a schedule so short that whole epochs are another part of it."""
    trained, total = length_of(cfg), length_of(whole)
    real = trained / total
    if abs(real - part) > TOLERANCE * part:
        print_log(
            f'The trial trains {real:.0%} of the schedule, {trained} of {total}, not '
            f'the {part:.0%} of --part: epochs and iterations are whole. Give a part '
            'that makes whole ones.',
            logger='current',
            level=logging.WARNING,
        )


def _task(cfg: Config) -> str:
    model = build_model(cfg)
    return TASK_NAMES[type(task_of(model))]


def _skip_validation(cfg: Config) -> None:
    """Leave it to the test at the end, so that the time is training's."""
    # Later than the end of the longest run.
    cfg.train_cfg.val_begin = 2 * length_of(cfg)


def describe_trial(
    runs: Sequence[Run], part: float, metric: Optional[str] = None
) -> str:
    """Say in a few lines what the trial lets expect of the whole schedule.

    Args:
        runs: The trial's runs, of which some may have failed. Those that earlier
            commands finished in the folder are added, as in the report.
        part: Fraction of the schedule that was trained, of :func:`trained_part`.
        metric: The quality that counts.

    Returns:
        str: A line for each method: its difference to the plain student with its
            corrected 95 % interval, the hours that a whole training takes, and which of
            the three it was: above, below, or not told apart.

    Raises:
        ValueError: If the plain student has no finished run.
    """
    runs = [*runs, *finished_before(runs, runs[0].out)]
    summary = Summary(results_of(runs), [run.method for run in runs], metric)
    plain = summary.results.get(PLAIN)
    if not plain:
        raise ValueError(
            'No run of the plain student has finished: nothing to compare.'
        )
    steps = _mean(plain, 'steps')
    factor = split_length(EQUAL_TIME)[1]
    if EQUAL_TIME in summary.results:  # rounded to whole epochs
        factor = _mean(summary.results[EQUAL_TIME], 'steps') / steps
    correction = ''
    if summary.num_tests > 1:
        correction = f', corrected for {summary.num_tests} methods'
    lines = [
        f'After {part:.0%} of the schedule, {len(plain)} seeds, by '
        f'{summary.quality.label}; a whole plain training takes about '
        f'{_whole_time(PLAIN, plain, steps / part)} here. Differences with '
        f'intervals of 95 %{correction}:'
    ]
    for method in summary.methods:
        if method == PLAIN:
            continue
        line = 'failed'
        if method in summary.results:
            line = (
                f'no pair of seeds with the plain student has {summary.quality.label}'
            )
        if method in summary.differences:
            time = _whole_time(method, summary.results[method], steps / part)
            verdict = _verdict(summary.differences[method], summary.quality)
            line = f'{verdict}; about {time}'
        lines.append(f'  {method}: {line}')
    lines.append(
        'A part of a schedule flatters what learns fast: read this as a hint on '
        f'whether a whole comparison is worth its time. A method must also be above '
        f'{EQUAL_TIME}, the plain student for {factor:.3g} times as long.'
    )
    return '\n'.join(lines)


def _verdict(found: Difference, quality: Column) -> str:
    digits = quality.digits
    place = {1: 'above', -1: 'below', 0: 'not told apart from'}[found.sign]
    interval = '[one seed: none]' if found.n < 2 else '[all seeds alike: none]'
    if found.has_interval:
        low, high = found.mean - found.corrected, found.mean + found.corrected
        interval = f'[{low:+.{digits}f}, {high:+.{digits}f}]'
    return f'{found.mean:+.{digits}f} {interval}, {place} the plain student'


def _mean(runs: Dict[int, dict], key: str) -> float:
    return sum(run[key] for run in runs.values()) / len(runs)


def _whole_time(method: str, runs: Dict[int, dict], plain_steps: float) -> str:
    steps = split_length(method)[1] * plain_steps
    hours = _mean(runs, 'step_seconds') * steps / 3600
    return f'{hours:.2g} h' if hours >= 1 else f'{60 * hours:.2g} min'
