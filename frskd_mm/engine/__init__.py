"""What the command-line tools call."""

from .config import configure_run, load_config, resolve_work_dir
from .export import export_student
from .methods import method_names
from .runs import evaluate, train
from .wrap import student_config, wrap

__all__ = [
    'configure_run',
    'evaluate',
    'export_student',
    'load_config',
    'method_names',
    'resolve_work_dir',
    'student_config',
    'train',
    'wrap',
]
