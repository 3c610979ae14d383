# Plain WRN-40-2, CIFAR-100: the teacher of the kd configs.
_base_ = '../wrn16-2_cifar100.py'
model = dict(backbone=dict(depth=40))
