# Plain FCN on a ResNet-18 of quarter width that reads all four levels: the
# baseline of FRSKD.
_base_ = [
    '../_base_/imagenet_stats.py',
    '../_base_/camvid.py',
    '../_base_/schedule_camvid.py',
]
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        **_base_._imagenet,
        size=_base_.crop_size,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=16,
        base_channels=16,
        out_indices=(0, 1, 2, 3),
        norm_cfg=norm_cfg,
        style='pytorch',
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
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
