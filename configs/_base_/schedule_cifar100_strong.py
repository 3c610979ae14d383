# A stronger schedule of CIFAR-100 than the paper's: five times the weight decay,
# Nesterov momentum, an epoch of warm-up and a cosine to 0, in 200 epochs.
_base_ = 'mmpretrain::_base_/schedules/cifar10_bs128.py'
optim_wrapper = dict(optimizer=dict(nesterov=True, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        begin=1,
        end=200,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
