"""Necks that refine feature maps."""

from .bifpn import BiFPN
from .bifpn_seg import BiFPNSeg, FPNBiFPNSeg
from .bifpnc import BiFPNc
from .refining import RefiningNeck

__all__ = ['BiFPN', 'BiFPNSeg', 'BiFPNc', 'FPNBiFPNSeg', 'RefiningNeck']
