# Label smoothing, ResNet-18, CIFAR-100: the cheap rival of self-distillation.
_base_ = '../resnet18_cifar100.py'
model = dict(
    head=dict(loss=dict(_delete_=True, type='LabelSmoothLoss', label_smooth_val=0.1))
)
