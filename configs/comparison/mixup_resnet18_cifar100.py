# Mixup, ResNet-18, CIFAR-100: what FRSKD with Mixup is to be compared with.
_base_ = '../resnet18_cifar100.py'
model = dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)))
