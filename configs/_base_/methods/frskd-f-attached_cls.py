# FRSKD\F, soft labels only, whose self-teacher's task loss also trains the backbone.
# python tools/train.py CONFIG --method frskd-f-attached
_base_ = './frskd-f_cls.py'
distiller = dict(detach_inputs=False)
