# The plain ResNet-18 with a stronger recipe than the paper's.
_base_ = [
    'mmpretrain::_base_/models/resnet18_cifar.py',
    '../_base_/cifar100_bs128.py',
    '../_base_/schedule_cifar100_strong.py',
    '../_base_/runtime_cls.py',
]
model = dict(head=dict(num_classes=100))
