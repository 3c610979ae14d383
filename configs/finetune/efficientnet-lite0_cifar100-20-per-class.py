# Plain EfficientNet-lite0, fine-tuned from ImageNet on 20 training images a class of
# CIFAR-100 at 64x64; the whole test split. Minutes on a CPU.
_base_ = [
    '../_base_/efficientnet-lite0.py',
    '../_base_/cifar100_finetune.py',
    '../_base_/runtime_cls.py',
]
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, end=1, convert_to_iter_based=True),
    # to 0
    dict(type='CosineAnnealingLR', begin=1, by_epoch=True, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=2)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5))
