# Plain EfficientNet-lite0, fine-tuned from ImageNet on 20 training images a class of
# CIFAR-100 at 64x64; the whole test split. Minutes on a CPU.
_base_ = [
    '../_base_/efficientnet-lite0.py',
    '../_base_/cifar100_finetune.py',
    '../_base_/schedule_finetune.py',
    '../_base_/runtime_cls.py',
]
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=2)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5))
