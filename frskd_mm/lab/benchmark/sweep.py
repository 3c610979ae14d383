"""How the cost grows: with batch, image size, levels and width."""

from copy import deepcopy
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from mmengine.config import Config

from frskd_mm.lab.tables import markdown_table
from frskd_mm.lab.visualization.figure import as_label, new_figure
from frskd_mm.lab.visualization.learning_curves import COLOURS
from frskd_mm.models.distilled import is_distilled
from frskd_mm.utils.model import build_model

from .plan import Arm
from .steps import Workload

#: What can be varied, and what it is called on the axis.
SWEEPS = {
    'batch': 'batch size',
    'size': 'image height and width',
    'levels': 'levels that are refined',
    'width': 'width of the neck',
}


class Point(NamedTuple):
    """A measurement of the sweep."""

    value: float
    arms: List[Arm]
    workload: Workload


def parse_sweep(texts: Sequence[str]) -> Tuple[str, List[float]]:
    """Read ``KIND VALUE...``.

    Raises:
        ValueError: If the kind is unknown or a value does not suit it.
    """
    kind, *values = texts
    if kind not in SWEEPS:
        raise ValueError(f'--sweep takes one of {", ".join(SWEEPS)}, not {kind!r}.')
    if not values:
        raise ValueError(f'--sweep {kind} needs values, such as --sweep {kind} 1 2 4.')
    numbers = [_parse_number(kind, value) for value in values]
    return kind, numbers


def _parse_number(kind: str, text: str) -> float:
    for read in (int, float) if kind == 'width' else (int,):
        try:
            number = read(text)
        except ValueError:
            continue
        if number > 0:
            return number
    raise ValueError(
        f'--sweep {kind}: {text!r} is not a positive number that suits it.'
    )


def plan_sweep(
    kind: str, values: Sequence[float], arms: Sequence[Arm], workload: Workload
) -> List[Point]:
    """Return the measurements of a sweep.

    Args:
        kind: A key of ``SWEEPS``.
        values: What to set it to, one after the other.
        arms: From :func:`frskd_mm.lab.benchmark.plan.plan_arms`.
        workload: Batch and image size where they do not vary.

    Raises:
        ValueError: If the arms have nothing of the kind.
    """
    if kind in ('batch', 'size'):
        batch, size = workload
        workloads = [
            Workload(int(value), size)
            if kind == 'batch'
            else Workload(batch, (int(value), int(value)))
            for value in values
        ]
        return [Point(v, list(arms), w) for v, w in zip(values, workloads)]
    change = {'levels': _set_levels, 'width': _set_width}[kind]
    if not any(arm.is_distilled for arm in arms):
        raise ValueError(
            f'--sweep {kind} varies the self-teacher, but no arm has a method. Give '
            'the config of a distilled model, or --method.'
        )
    points = []
    for value in values:
        changed = [
            arm._replace(cfg=change(arm.cfg, value)) if arm.is_distilled else arm
            for arm in arms
        ]
        points.append(Point(value, changed, workload))
    return points


def _set_levels(cfg: Config, levels: float) -> Config:
    """Refine the coarsest levels alone: the classifier reads the last one."""
    cfg, number = deepcopy(cfg), int(levels)
    if cfg.get('default_scope') != 'mmpretrain' or not is_distilled(cfg.model):
        raise ValueError(
            '--sweep levels leaves out the finest levels of distilled '
            'classifiers; what segmentors and detectors do not read of the backbone '
            'cannot be left out so.'
        )
    model = build_model(cfg)
    found = model.distiller.levels
    if found is None:
        raise ValueError(
            f'--sweep levels: {cfg.model.distiller.type} reads no levels. Give a '
            'method that does, such as frskd.'
        )
    if number < 2:
        raise ValueError(
            f'--sweep levels {number}: a self-teacher refines at least two levels.'
        )
    if number > len(found.stages):
        raise ValueError(
            f'--sweep levels {number}: {len(found.stages)} levels are refined. Set '
            'more of them in student.backbone.out_indices or in stages of the '
            'distiller.'
        )
    if found.are_outputs:
        indices = tuple(model.backbone.out_indices)[-number:]
        cfg.model.student.backbone.out_indices = indices
    else:
        stages = [stage for stage in found.stages[-number:] if stage.own is None]
        cfg.model.distiller.stages = tuple(stage.path for stage in stages)
    return cfg


def _set_width(cfg: Config, width: float) -> Config:
    """Let refined maps have ``width`` times the channels of the student's."""
    cfg = deepcopy(cfg)
    neck = cfg.model.get('distiller', {}).get('neck') or {}
    if neck.get('type') != 'frskd_mm.BiFPNc':
        raise ValueError(
            f'--sweep width varies the width of a BiFPNc neck, not of '
            f'{neck.get("type", "a method without one")!r}.'
        )
    neck['width'] = width
    return cfg


def sweep_table(kind: str, measurements: Sequence[Dict[str, Any]]) -> str:
    """Return how seconds, ratio and memory grow, as a Markdown table."""
    header = [SWEEPS[kind], 'arm', 'seconds', 'ratio', 'FLOPs', 'peak memory (MB)']
    rows = [header]
    for found in measurements:
        for arm in found['arms']:
            row = [f'{found["value"]:g}', arm['name']]
            row.append(f'{arm["seconds"]["total"]["median"]:.4f}')
            row += [
                f'{arm["ratio"]["median"]:.2f}' if 'ratio' in arm else '–',
                f'{arm["flops_ratio"]:.2f}' if 'ratio' in arm else '–',
            ]
            row.append(f'{arm["memory_mb"]["peak"]:.0f}')
            rows.append(row)
    return markdown_table(rows)


def draw_sweep(kind: str, measurements: Sequence[Dict[str, Any]], path: str) -> None:
    """Draw seconds, and the ratio to the plain student, over what varies.

    Args:
        kind: A key of ``SWEEPS``.
        measurements: One a value, with 'value' and 'arms'.
        path: PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    values = [found['value'] for found in measurements]
    for number, first in enumerate(measurements[0]['arms']):
        colour = COLOURS[number % len(COLOURS)]
        series = [found['arms'][number] for found in measurements]
        seconds = [arm['seconds']['total'] for arm in series]
        _draw_spread(left, values, seconds, first['name'], colour)
        if 'ratio' in first:
            ratios = [arm['ratio'] for arm in series]
            _draw_spread(right, values, ratios, f'{first["name"]}, time', colour)
            flops = [arm['flops_ratio'] for arm in series]
            label = as_label(f'{first["name"]}, FLOPs')
            right.plot(values, flops, color=colour, linestyle='--', label=label)
    left.set(ylabel='seconds per training step', ylim=(0, None))
    right.set(ylabel='ratio to the plain student', ylim=(0, None))
    right.axhline(1.0, color='black', linewidth=0.8)
    for axes in (left, right):
        axes.set_xlabel(SWEEPS[kind])
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[1]:
            axes.legend()
    figure.savefig(path, dpi=110)


def _draw_spread(
    axes: Any,
    values: Sequence[float],
    spreads: Sequence[Dict[str, float]],
    label: str,
    colour: str,
) -> None:
    medians, low, high = (
        [spread[key] for spread in spreads] for key in ('median', 'q1', 'q3')
    )
    axes.plot(values, medians, color=colour, marker='o', label=as_label(label))
    axes.fill_between(values, low, high, color=colour, alpha=0.2)
