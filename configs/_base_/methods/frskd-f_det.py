# FRSKD\F, soft labels only: python tools/train.py CONFIG --method frskd-f
_base_ = '../frskd_det.py'
distiller = dict(feature_loss=dict(loss_weight=0.0))
