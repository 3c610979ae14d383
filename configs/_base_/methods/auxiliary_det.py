# The attached self-teacher without distillation: what FRSKD's second head gives as
# auxiliary supervision of the student's features alone.
# python tools/train.py CONFIG --method auxiliary
_base_ = './frskd-attached_det.py'
distiller = dict(
    soft_label=dict(loss_weight=0.0),  # alpha
    feature_loss=dict(loss_weight=0.0),  # beta
)
