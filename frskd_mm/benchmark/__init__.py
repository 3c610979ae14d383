"""What a training step costs, beside the plain student's and others'."""

from .measure import environment, measure
from .plan import Arm, choose_image_size, configure, plan_arms
from .report import report
from .steps import Workload, silence

__all__ = [
    'Arm',
    'Workload',
    'choose_image_size',
    'configure',
    'environment',
    'measure',
    'plan_arms',
    'report',
    'silence',
]
