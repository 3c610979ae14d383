"""Differences of many methods to one, with intervals."""

from typing import Collection, Mapping

from frskd_mm.lab.statistics import Difference

from .figure import as_label, new_figure

#: By the sign of what is shown: behind, not shown to differ, ahead.
COLOURS = {-1: '#b2432f', 0: '#8a8f98', 1: '#23744b'}
#: Inches; narrow, so that the letters can be read on a phone.
WIDTH, ROW, MARGIN = 4.4, 0.2, 1.15


def draw_differences(
    differences: Mapping[str, Difference],
    costs: Mapping[str, str],
    baseline: str,
    emphasised: Collection[str],
    label: str,
    path: str,
) -> None:
    """Draw the differences, sorted, with both intervals and the cost beside each.

    Thick lines are intervals of one method alone, thin ones those corrected for the
    number of methods; a colour says that the corrected one leaves out 0.

    Args:
        differences: By method, in the order to draw them, from the top.
        costs: What stands at the right of each, by method.
        baseline: What they are differences to, a row of its own where it belongs.
        emphasised: Methods whose names are bold, beside the baseline's.
        label: What the axis shows.
        path: PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    names = [name for name, found in differences.items() if found.mean > 0]
    names += [baseline, *(name for name in differences if name not in names)]
    figure = new_figure(figsize=(WIDTH, MARGIN + ROW * len(names)))
    axes = figure.subplots()
    axes.axvline(0, color='black', linewidth=1)
    for row, name in enumerate(names):
        if name == baseline:
            axes.plot(0, row, 'D', color='black', markersize=5)
            continue
        found = differences[name]
        colour = COLOURS[found.sign]
        for half, width in ((found.corrected, 0.8), (found.half, 2.6)):
            ends = (found.mean - half, found.mean + half)
            axes.plot(ends, (row, row), color=colour, linewidth=width)
        axes.plot(found.mean, row, 'o', color=colour, markersize=4.5)
    rows = range(len(names))
    axes.set_yticks(rows, [as_label(name) for name in names], fontsize=8)
    for name, text in zip(names, axes.get_yticklabels()):
        if name == baseline or name in emphasised:
            text.set_fontweight('bold')
    right = axes.secondary_yaxis('right')
    right.set_yticks(rows, [costs.get(name, '') for name in names], fontsize=8)
    right.tick_params(length=0)
    axes.set_title('training time', fontsize=8, loc='right')
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(as_label(label), fontsize=8)
    axes.tick_params(axis='x', labelsize=8)
    axes.grid(axis='x', alpha=0.3)
    figure.savefig(path, dpi=200)
