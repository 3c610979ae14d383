# Soft labels and attention transfer, ResNet-34 to ResNet-18, CIFAR-100.
_base_ = './kd_resnet18_cifar100.py'
model = dict(
    distiller=dict(
        # the weight in HobbitLong/RepDistiller
        feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=1000.0)
    )
)
