# BiFPN in place of BiFPNc: as many channels at every level.
_neck = dict(type='frskd_mm.BiFPN', out_channels=256)
