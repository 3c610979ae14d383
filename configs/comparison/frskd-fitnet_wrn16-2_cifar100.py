# FRSKD with FitNet as its feature term, WRN-16-2, CIFAR-100.
_base_ = '../frskd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # No beta is published for this term. 1 makes it about as large as attention
        # transfer with its 100; untuned.
        feature_loss=dict(_delete_=True, type='frskd_mm.FitNetLoss', loss_weight=1.0)
    )
)
