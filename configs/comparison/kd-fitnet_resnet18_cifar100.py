# Soft labels and FitNet from a pretrained ResNet-34 for ResNet-18, CIFAR-100.
_base_ = './kd_resnet18_cifar100.py'
model = dict(
    distiller=dict(
        # the weight in HobbitLong/RepDistiller
        feature_loss=dict(type='frskd_mm.FitNetLoss', loss_weight=100.0)
    )
)
