# FRSKD with Mixup, WRN-16-2, CIFAR-100.
_base_ = '../frskd_wrn16-2_cifar100.py'
model = dict(student=dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.2))))
