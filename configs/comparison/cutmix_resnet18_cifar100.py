# CutMix, ResNet-18, CIFAR-100: what FRSKD with CutMix is to be compared with.
_base_ = '../resnet18_cifar100.py'
model = dict(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0)))
