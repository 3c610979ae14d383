# Soft labels and FitNet from a pretrained WRN-40-2 for WRN-16-2, CIFAR-100.
_base_ = './kd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # the weight in HobbitLong/RepDistiller
        feature_loss=dict(type='frskd_mm.FitNetLoss', loss_weight=100.0)
    )
)
