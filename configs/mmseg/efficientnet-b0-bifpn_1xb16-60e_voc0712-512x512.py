# The published student without distillation: the baseline of FRSKD.
_base_ = [
    '../_base_/imagenet_stats.py',
    '../_base_/voc0712_seg.py',
    '../_base_/schedule_voc0712.py',
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
        type='frskd_mm.EfficientNetFeatures',
        arch='b0',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/efficientnet/efficientnet-b0_3rdparty_8xb32_in1k_20220119-a7e2a0b1.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(
        type='frskd_mm.FPNBiFPNSeg',
        in_channels=[24, 40, 112, 320],
        out_channels=64,
        num_layers=3,
        # Nobody reads what a last bottom-up pass would give.
        last_bottom_up=False,
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(
        type='FCNHead',
        in_channels=64,
        in_index=0,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0,
        num_classes=21,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
