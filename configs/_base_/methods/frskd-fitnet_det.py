# FRSKD with FitNet as its feature term.
_base_ = '../frskd_det.py'
distiller = dict(
    # No beta is published for this term; that of the CIFAR-100 configs, untuned.
    feature_loss=dict(_delete_=True, type='frskd_mm.FitNetLoss', loss_weight=1.0)
)
