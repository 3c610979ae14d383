# Plain ResNet-34, CIFAR-100: the teacher of the kd configs.
_base_ = '../resnet18_cifar100.py'
model = dict(backbone=dict(depth=34))
