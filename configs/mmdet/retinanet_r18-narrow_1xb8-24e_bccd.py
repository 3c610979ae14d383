# RetinaNet with a narrow ResNet-18 on BCCD, from scratch, on one CPU core.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    '../_base_/imagenet_stats.py',
    '../_base_/retinanet_r18-narrow.py',
    '../_base_/bccd.py',
]
model = dict(
    data_preprocessor=_base_._imagenet,
    backbone=dict(base_channels=24),  # 64 in ResNet-18
    neck=dict(in_channels=[48, 96, 192]),
    bbox_head=dict(
        num_classes=3,
        stacked_convs=2,
        # Cells are round, and 20 to 130 pixels wide at this scale.
        anchor_generator=dict(ratios=[1.0]),
    ),
    test_cfg=dict(
        nms_pre=1000,
        score_thr=0.05,
        max_per_img=100,
    ),
)
max_epochs = 24
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type='frskd_mm.EpochSeedHook')]
default_hooks = dict(
    logger=dict(interval=10),
    # Two, so that a valid one is left when saving is interrupted.
    checkpoint=dict(interval=1, max_keep_ckpts=2),
)
randomness = dict(seed=0)
