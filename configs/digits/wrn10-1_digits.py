# Plain WRN-10-1 on the embedded digits: seconds on a CPU, no download.
_base_ = [
    '../_base_/wrn16-2.py',
    '../_base_/digits_cls.py',
    '../_base_/runtime_cls.py',
]
model = dict(
    backbone=dict(depth=10, widen_factor=1),
    head=dict(num_classes=10, in_channels=64),
)
optim_wrapper = dict(
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
)
param_scheduler = dict(type='CosineAnnealingLR', by_epoch=True)  # to 0
train_cfg = dict(by_epoch=True, max_epochs=25, val_interval=5)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=25))
