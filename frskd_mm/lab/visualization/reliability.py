"""Reliability diagrams."""

from typing import Mapping, Sequence

import numpy as np

from frskd_mm.evaluation.calibration import (
    Predictions,
    expected_calibration_error,
    gather_bins,
)

from .figure import as_label, new_figure

MAX_COLUMNS = 4


def draw_reliability(
    methods: Mapping[str, Sequence[Predictions]], path: str, num_bins: int = 15
) -> None:
    """Draw accuracy against confidence, a panel for each method.

    Bars on the diagonal are calibrated, those of all seeds together. The grey steps
    are the share of the images in each bin. The ECE in the title is the mean of the
    seeds', as in the comparison's table: that of all predictions together would be
    smaller, since the seeds' errors cancel out.

    Args:
        methods: Predictions of each seed, by the method's name.
        path: PNG to write.
        num_bins: Bins of equal width.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    columns = min(MAX_COLUMNS, len(methods))
    rows = -(-len(methods) // columns)
    figure = new_figure(figsize=(3.2 * columns, 3.3 * rows))
    panels = figure.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True
    ).ravel()
    edges = np.linspace(0, 1, num_bins + 1)
    for axes, (name, seeds) in zip(panels, methods.items()):
        bins = gather_bins(Predictions(*map(np.concatenate, zip(*seeds))), num_bins)
        axes.bar(
            edges[:-1],
            bins.accuracies,
            width=1 / num_bins,
            align='edge',
            color='#4878b0',
            edgecolor='white',
            label='accuracy',
        )
        share = bins.counts / bins.counts.sum()
        axes.stairs(share, edges, color='#7f7f7f', label='share of the images')
        axes.plot([0, 1], [0, 1], color='black', linestyle='--', linewidth=1)
        eces = [expected_calibration_error(seed, num_bins) for seed in seeds]
        ece = 100 * np.mean(eces)
        title = as_label(f'{name}: ECE {ece:.1f} %')
        axes.set(title=title, xlim=(0, 1), ylim=(0, 1))
    for axes in panels[len(methods) :]:
        axes.set_axis_off()
    panels[0].legend(loc='upper left', fontsize='small')
    figure.supxlabel('confidence')
    figure.supylabel('accuracy')
    figure.savefig(path, dpi=110)
