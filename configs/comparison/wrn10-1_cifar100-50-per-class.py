# Plain WRN-10-1 on 50 training images a class, the whole test set: the student of
# docs/comparisons/cifar100. Minutes on a CPU.
_base_ = [
    '../_base_/wrn16-2.py',
    '../_base_/cifar100_bs128.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    backbone=dict(depth=10, widen_factor=1),
    head=dict(in_channels=64),
)
train_dataloader = dict(batch_size=64, num_workers=0, dataset=dict(num_per_class=50))
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)  # to 0
train_cfg = dict(by_epoch=True, max_epochs=24, val_interval=6)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=4))
