"""Feature-refinement self-distillation for the OpenMMLab libraries.

Importing the package checks the installed versions, and lets MMEngine read
``mmseg::...`` and ``frskd_mm::...`` config paths. Nothing of mmpretrain,
mmsegmentation or mmdetection is imported until one of their models is used.
"""

from .utils.environment import check_environment, register_config_packages
from .version import __version__

check_environment()
register_config_packages()

__all__ = ['__version__']
