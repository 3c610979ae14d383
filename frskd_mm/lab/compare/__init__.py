"""Methods compared under one recipe: a grid of methods and seeds."""

from .grid import Run, plan_grid, run_grid
from .report import write_report

__all__ = ['Run', 'plan_grid', 'run_grid', 'write_report']
