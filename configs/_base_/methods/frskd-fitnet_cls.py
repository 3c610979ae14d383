# FRSKD with FitNet as its feature term.
_base_ = '../frskd_cls.py'
distiller = dict(
    # No beta is published for this term. 1 makes it about as large as attention
    # transfer with its 100; untuned.
    feature_loss=dict(_delete_=True, type='frskd_mm.FitNetLoss', loss_weight=1.0)
)
