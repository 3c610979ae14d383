# WRN-16-2 for 32x32 images.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='frskd_mm.WideResNet', depth=16, widen_factor=2),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
)
