# Soft labels and overhaul from a pretrained WRN-40-2 for WRN-16-2, CIFAR-100.
_base_ = './kd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # the paper's weight for CIFAR-100
        feature_loss=dict(
            type='frskd_mm.OverhaulLoss', loss_weight=1e-3, margin='batch'
        )
    )
)
