"""Feature-refinement self-distillation for the OpenMMLab libraries.

Importing the package checks the installed versions, and lets MMEngine read
``mmseg::...`` and ``frskd_mm::...`` config paths. Nothing of mmpretrain,
mmsegmentation or mmdetection is imported until one of their models is used, and
the functions named below, of ``frskd_mm.engine``, only when they are asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, List

from .utils.environment import check_environment, register_config_packages
from .version import __version__

if TYPE_CHECKING:
    from .engine import configure_run, evaluate, export_student, load_config, train
    from .engine.wrap import wrap

check_environment()
register_config_packages()

__all__ = [
    '__version__',
    'configure_run',
    'evaluate',
    'export_student',
    'load_config',
    'train',
    'wrap',
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, since ``import frskd_mm`` has to be cheap."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module('.engine', __name__), name)


def __dir__() -> List[str]:
    """List the functions that are not imported yet, too."""
    return sorted({*globals(), *__all__})
