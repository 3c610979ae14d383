"""Methods compared under one recipe: a grid of methods and seeds."""

from .grid import Run, plan_grid, run_grid
from .quick import describe_trial, plan_quick
from .report import write_report

__all__ = [
    'Run',
    'describe_trial',
    'plan_grid',
    'plan_quick',
    'run_grid',
    'write_report',
]
