"""Gains against what they cost, and along a regime."""

from typing import Collection, Dict, List, Mapping, Sequence, Tuple

import numpy as np

from frskd_mm.lab.statistics import Difference

from .differences import COLOURS as BY_SIGN
from .figure import as_label, new_figure
from .learning_curves import COLOURS

#: Of more methods not all names fit beside their points.
MAX_NAMES = 12


def pareto_set(points: Mapping[str, Tuple[float, float]]) -> List[str]:
    """Return the names of what nothing beats, the cheapest first.

    Args:
        points: Cost and gain by name.

    Example:
        >>> pareto_set({'none': (1, 0), 'a': (2, 3), 'b': (2.5, 2), 'c': (4, 5)})
        ['none', 'a', 'c']
    """
    best: List[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not best or points[name][1] > points[best[-1]][1]:
            best.append(name)
    return best


def draw_gain_and_cost(
    differences: Mapping[str, Difference],
    costs: Mapping[str, float],
    baseline: str,
    named: Collection[str],
    label: str,
    path: str,
) -> None:
    """Draw each method's difference against its cost, and mark the Pareto set.

    The grey line connects what no other method beats in both by its mean; a colour
    says that the interval, corrected for the number of methods, leaves out 0. Of more
    than 12 methods names and intervals are drawn of that set and of ``named`` alone.

    Args:
        differences: By method.
        costs: Time of a training in plain ones, of each method and the baseline.
        baseline: What they are differences to, at 0.
        named: Methods whose names are always drawn.
        label: What the vertical axis shows.
        path: PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    gains: Dict[str, float] = {baseline: 0.0}
    gains.update((name, found.mean) for name, found in differences.items())
    figure = new_figure(figsize=(4.4, 3.6))
    axes = figure.subplots()
    axes.axhline(0, color='black', linewidth=0.8)
    best = pareto_set({name: (costs[name], gain) for name, gain in gains.items()})
    line = [costs[name] for name in best], [gains[name] for name in best]
    axes.plot(*line, color='#8a8f98', linewidth=1, zorder=1)
    are_few = len(gains) <= MAX_NAMES
    for name, gain in gains.items():
        found = differences.get(name)
        colour = BY_SIGN[found.sign] if found else 'black'
        is_named = are_few or name in best or name in named
        if is_named and found is not None and found.has_interval:
            ends = gain - found.half, gain + found.half
            axes.plot([costs[name]] * 2, ends, color=colour, linewidth=1.2, zorder=2)
        size = 4.5 if is_named else 3.0
        axes.plot(costs[name], gain, 'o', color=colour, markersize=size, zorder=3)
        if is_named:
            axes.annotate(
                as_label(name),
                (costs[name], gain),
                xytext=(5, 3),
                textcoords='offset points',
                fontsize=7,
                fontweight='bold' if name in best else 'normal',
            )
    highest = max(costs[name] for name in gains)
    if highest > 3:
        axes.set_xscale('log', base=2)
    axes.xaxis.set_major_formatter('×{x:g}')
    axes.set_xlabel('time of a training, in plain ones', fontsize=8)
    axes.set_ylabel(as_label(label), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.16)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=200)


def draw_gains_along(
    series: Mapping[str, Sequence[Tuple[float, Difference]]],
    along: str,
    label: str,
    path: str,
) -> None:
    """Draw how methods' differences to the plain student change along a regime.

    Args:
        series: By method, where each comparison stands, and the difference there;
            its 95 % interval is drawn where there are several seeds.
        along: What changes, such as images a class.
        label: What the vertical axis shows.
        path: PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    figure = new_figure(figsize=(5.6, 3.6))
    axes = figure.subplots()
    axes.axhline(0, color='black', linewidth=0.8)
    for number, (name, points) in enumerate(series.items()):
        places = [place for place, _ in points]
        halves = [found.half for _, found in points]
        axes.errorbar(
            places,
            [found.mean for _, found in points],
            yerr=np.nan_to_num(halves),  # not all have an interval
            color=COLOURS[number % len(COLOURS)],
            capsize=3,
            fmt='o-',
            markersize=4,
            label=as_label(name),
        )
    places = sorted({place for points in series.values() for place, _ in points})
    if places[0] > 0 and places[-1] / places[0] > 4:
        axes.set_xscale('log')
    axes.set_xticks(places, [f'{place:g}' for place in places])
    axes.minorticks_off()
    axes.set_xlabel(as_label(along), fontsize=8)
    axes.set_ylabel(as_label(label), fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=150)
