# Soft labels and attention transfer, WRN-40-2 to WRN-16-2, CIFAR-100.
_base_ = './kd_wrn16-2_cifar100.py'
model = dict(
    distiller=dict(
        # the weight in HobbitLong/RepDistiller
        feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=1000.0)
    )
)
