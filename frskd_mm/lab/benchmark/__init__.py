"""What a training step costs, beside the plain student's and others'."""

from .inference import measure_inference
from .measure import measure
from .plan import Arm, choose_image_size, configure, configure_arms, plan_arms
from .report import report
from .steps import Workload, silence
from .sweep import Point, draw_sweep, parse_sweep, plan_sweep, sweep_table

__all__ = [
    'Arm',
    'Point',
    'Workload',
    'choose_image_size',
    'configure',
    'configure_arms',
    'draw_sweep',
    'measure',
    'measure_inference',
    'parse_sweep',
    'plan_arms',
    'plan_sweep',
    'report',
    'silence',
    'sweep_table',
]
