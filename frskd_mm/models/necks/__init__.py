"""Necks that refine feature maps."""

from .bifpn import BiFPN
from .bifpn_seg import BiFPNSeg, FPNBiFPNSeg
from .bifpnc import BiFPNc

__all__ = ['BiFPN', 'BiFPNSeg', 'BiFPNc', 'FPNBiFPNSeg']
