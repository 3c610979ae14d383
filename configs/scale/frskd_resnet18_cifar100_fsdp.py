# FRSKD, ResNet-18, CIFAR-100: parameters, gradients and optimiser states are sharded.
_base_ = '../frskd_resnet18_cifar100.py'
runner_type = 'FlexibleRunner'
strategy = dict(
    type='frskd_mm.FSDPStrategy',
    # One whole checkpoint, with the names that other runs give.
    state_dict_cfg='full',
)
