"""What the command-line tools call."""

from .config import configure_run, load_config, resolve_work_dir
from .export import export_student
from .export_onnx import export_graph, read_metadata
from .methods import method_names
from .runs import evaluate, train
from .wrap import student_config, wrap

__all__ = [
    'configure_run',
    'evaluate',
    'export_graph',
    'export_student',
    'load_config',
    'method_names',
    'read_metadata',
    'resolve_work_dir',
    'student_config',
    'train',
    'wrap',
]
