# Plain WRN-40-2, CIFAR-100: the teacher of kd_wrn16-2.
_base_ = './wrn16-2_1xb128_cifar100.py'
# All three maps, for kd-at, kd-fitnet and kd-overhaul; the head reads the last one.
model = dict(backbone=dict(depth=40, out_indices=(0, 1, 2)))
