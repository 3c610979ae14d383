# FRSKD, an extension: the self-teacher adds the maps that it refines to its own,
# and begins with what its student knows.
# python tools/train.py CONFIG --method frskd-residual
_base_ = '../frskd_seg.py'
distiller = dict(neck=dict(width=1, residual=True))
