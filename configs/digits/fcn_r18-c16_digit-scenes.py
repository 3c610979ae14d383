# Plain FCN on a ResNet-18 of quarter width, on scenes of the embedded digits.
_base_ = [
    'mmseg::_base_/default_runtime.py',
    '../_base_/digits_seg.py',
    '../_base_/schedule_digit_scenes.py',
]
norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[80.0, 80.0, 80.0],
        std=[60.0, 60.0, 60.0],
        size=(_base_.size, _base_.size),
        seg_pad_val=255,
    ),
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=16,
        base_channels=16,  # 64 in ResNet-18
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=[16, 32, 64, 128],
        in_index=(0, 1, 2, 3),
        input_transform='resize_concat',
        channels=64,
        num_convs=1,
        kernel_size=1,
        concat_input=False,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(
            type='CrossEntropyLoss',
            loss_weight=1.0,
            class_weight=[0.1] + [1.0] * 10,  # most pixels are background
        ),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=5),
    checkpoint=dict(type='CheckpointHook', interval=_base_.max_epochs),
)
log_processor = dict(by_epoch=True)
