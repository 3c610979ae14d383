# The plain WRN-16-2 with a stronger recipe than the paper's.
_base_ = [
    '../_base_/wrn16-2.py',
    '../_base_/cifar100_bs128.py',
    '../_base_/schedule_cifar100_strong.py',
    '../_base_/runtime_cls.py',
]
