"""Learning curves, read from MMEngine's own logs."""

import json
import os.path as osp
from itertools import cycle
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from frskd_mm.lab.scalars import read_scalars

from .figure import as_label, new_figure

COLOURS = (
    *('#4878b0', '#d1793b', '#5a9e6f', '#7a5195', '#c44e52', '#8c6d46', '#d48fb8'),
    *('#7f7f7f', '#b5a642', '#4fb3bf', '#1f2d5a', '#9bc86a'),
)
DASHES = ('-', '--', ':')
MAX_WITH_SEEDS = 8
#: What distilled runs logged once, not averaged by MMEngine.
ONE_BATCH = 'student.task'


class Curves(NamedTuple):
    """What one run's log says of the student."""

    #: Iterations at which the training loss was logged.
    iterations: List[int]
    #: The student's own training loss there.
    losses: List[float]
    #: Epochs at which the student was evaluated.
    epochs: List[int]
    #: The metric there.
    metrics: List[float]
    #: Whether the run counts epochs; if not, ``epochs`` are iterations.
    by_epoch: bool = True
    #: Whether ``losses`` are means since the last one, as plain students log them.
    #: Distilled runs had those of single batches once.
    are_means: bool = True
    #: Epochs at which the self-teacher was evaluated, and the metric there.
    teacher_epochs: Tuple[int, ...] = ()
    teacher_metrics: Tuple[float, ...] = ()


def read_curves(path: str, metric: str, scale: float = 1.0) -> Curves:
    """Read the student's curves from what MMEngine logs.

    Args:
        path: A ``scalars.json``, or a work directory with those of a run and of
            its resumes.
        metric: Name of the metric, as the evaluator gives it.
        scale: Factor on the metric, 100 to make a fraction a percentage.

    Raises:
        ValueError: If the metric was not logged; lists what was.
        FileNotFoundError: If the work directory has no log.
    """
    if osp.isdir(path):
        lines = read_scalars(path)
    else:
        with open(path, encoding='utf-8') as file:
            lines = [json.loads(line) for line in file]
    training = [line for line in lines if 'loss' in line]
    evaluation = [line for line in lines if metric in line]
    of_teacher = f'self_teacher/{metric}'
    teacher = [line for line in lines if of_teacher in line]
    if not evaluation:
        names = sorted({name for line in lines for name in line})
        raise ValueError(f'{path} has no {metric!r}. It has: {", ".join(names)}.')
    return Curves(
        iterations=[line['iter'] for line in training],
        # What a plain student logs as its loss, a distilled one has besides.
        losses=[
            line.get('student.task_loss', line.get(ONE_BATCH, line['loss']))
            for line in training
        ],
        epochs=[line['step'] for line in evaluation],
        metrics=[scale * line[metric] for line in evaluation],
        by_epoch=any('epoch' in line for line in training),
        are_means=not any(ONE_BATCH in line for line in training),
        teacher_epochs=tuple(line['step'] for line in teacher),
        teacher_metrics=tuple(scale * line[of_teacher] for line in teacher),
    )


def draw_learning_curves(
    runs: Mapping[str, Sequence[Curves]],
    metric_label: str,
    title: str,
    path: str,
    levels: Optional[Dict[str, float]] = None,
) -> None:
    """Draw training loss and metric of several methods.

    Thick lines are means over seeds where all were logged, thin ones single seeds,
    drawn for up to 8 methods. Dotted is what the self-teachers themselves score.

    Args:
        runs: Curves of each seed, by the method's name for the legend.
        metric_label: What the metric is called on its axis.
        title: Heading.
        path: PNG to write.
        levels: Values drawn as dashed lines beside the metric, by name.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(12, max(4.0, 0.8 + 0.24 * len(runs))))
    left, right = figure.subplots(1, 2)
    styles = cycle((colour, dashes) for dashes in DASHES for colour in COLOURS)
    for (colour, dashes), (name, seeds) in zip(styles, runs.items()):
        losses = [(seed.iterations, seed.losses) for seed in seeds]
        metrics = [(seed.epochs, seed.metrics) for seed in seeds]
        for axes, curves in ((left, losses), (right, metrics)):
            if len(curves) > 1 and len(runs) <= MAX_WITH_SEEDS:
                for x, y in curves:
                    axes.plot(x, y, color=colour, alpha=0.3, linewidth=0.8)
            label = f'{name} ({len(curves)} seeds)' if len(curves) > 1 else name
            mean = mean_curve(curves)
            axes.plot(*mean, dashes, color=colour, label=as_label(label))
        teachers = [(s.teacher_epochs, s.teacher_metrics) for s in seeds]
        if all(epochs for epochs, _ in teachers):
            label = as_label(f'{name}, its self-teacher')
            line = mean_curve(teachers)
            right.plot(*line, ':', marker='.', color=colour, linewidth=1, label=label)
    for colour, (name, value) in zip(COLOURS[len(runs) :], (levels or {}).items()):
        right.axhline(value, color=colour, linestyle='--', label=as_label(name))
    loss_label = "student's own training loss"
    if not all(seed.are_means for seeds in runs.values() for seed in seeds):
        loss_label += '\n(older distilled runs: of single batches)'
    left.set(xlabel='iteration', ylabel=loss_label, ylim=(0, None))
    by_epoch = all(seed.by_epoch for seeds in runs.values() for seed in seeds)
    unit = 'epoch' if by_epoch else 'iteration'
    right.set(xlabel=unit, ylabel=as_label(metric_label))
    for axes in (left, right):
        axes.locator_params(axis='x', integer=True)
        axes.grid(alpha=0.3)
    figure.legend(*right.get_legend_handles_labels(), loc='outside right center')
    figure.suptitle(as_label(title))
    figure.savefig(path, dpi=110)


def mean_curve(
    curves: Sequence[Tuple[Sequence[int], Sequence[float]]],
) -> Tuple[List[int], List[float]]:
    """Return the mean of curves (x, y) at the points that all of them have.

    Runs may have been logged at different intervals, and one that was killed
    between a checkpoint and its validation has no validation there.
    """
    values = [dict(zip(x, y)) for x, y in curves]
    shared = sorted(set.intersection(*map(set, values)))
    return shared, [float(np.mean([value[x] for value in values])) for x in shared]
