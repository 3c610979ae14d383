# Plain WRN-16-2, 200 epochs: the baseline of FRSKD.
_base_ = [
    '../_base_/wrn16-2.py',
    '../_base_/cifar100_bs128.py',
    # SGD 0.1, weight decay 1e-4, x0.1 at epochs 100 and 150
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    '../_base_/runtime_cls.py',
]
