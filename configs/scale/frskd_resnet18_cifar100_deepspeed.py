# FRSKD, ResNet-18, CIFAR-100: gradients and optimiser states are sharded (ZeRO-2).
_base_ = '../frskd_resnet18_cifar100.py'
runner_type = 'FlexibleRunner'
strategy = dict(
    type='DeepSpeedStrategy',
    zero_optimization=dict(stage=2),
    # DeepSpeed's own optimisers are Adam and LAMB; the recipe has SGD.
    config=dict(zero_allow_untested_optimizer=True),
)
optim_wrapper = dict(type='DeepSpeedOptimWrapper')
