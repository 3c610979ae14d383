# FRSKD with overhaul as its feature term, WRN-16-2, CIFAR-100.
_base_ = '../frskd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # beta of the overhaul paper; none is published for FRSKD
        feature_loss=dict(_delete_=True, type='frskd_mm.OverhaulLoss', loss_weight=1e-3)
    )
)
