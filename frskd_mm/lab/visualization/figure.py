"""Figures for files, by the name that the lab's pictures import."""

from frskd_mm.visualization.figure import as_label, new_figure

__all__ = ['as_label', 'new_figure']
