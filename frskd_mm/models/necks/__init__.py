"""Necks that refine feature maps."""

from .bifpn import BiFPN
from .bifpnc import BiFPNc

__all__ = ['BiFPN', 'BiFPNc']
