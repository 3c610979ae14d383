# CutMix, WRN-16-2, CIFAR-100: what FRSKD with CutMix is to be compared with.
_base_ = '../wrn16-2_cifar100.py'
model = dict(train_cfg=dict(augments=dict(type='CutMix', alpha=1.0)))
