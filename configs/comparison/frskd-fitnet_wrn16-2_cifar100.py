# FRSKD with FitNet as its feature term, WRN-16-2, CIFAR-100.
_base_ = '../frskd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # beta as for attention transfer; none is published for this term
        feature_loss=dict(_delete_=True, type='frskd_mm.FitNetLoss', loss_weight=100.0)
    )
)
