# The attached self-teacher without distillation: what FRSKD's second classifier gives
# as auxiliary supervision of the backbone alone.
# python tools/train.py CONFIG --method auxiliary
_base_ = './frskd-attached_cls.py'
distiller = dict(
    soft_label=dict(loss_weight=0.0),  # alpha
    feature_loss=dict(loss_weight=0.0),  # beta
)
