# FRSKD as in the authors' code: the self-teacher's task loss also trains the backbone.
# python tools/train.py CONFIG --method frskd-attached
_base_ = '../frskd_det.py'
distiller = dict(detach_inputs=False)
