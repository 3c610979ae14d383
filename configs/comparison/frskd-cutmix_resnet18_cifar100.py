# FRSKD with CutMix, ResNet-18, CIFAR-100.
_base_ = '../frskd_resnet18_cifar100.py'
model = dict(student=dict(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0))))
