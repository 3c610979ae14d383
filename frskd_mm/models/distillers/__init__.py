"""Self-distillation methods."""

from .base import BaseDistiller
from .frskd import FRSKD

__all__ = ['FRSKD', 'BaseDistiller']
