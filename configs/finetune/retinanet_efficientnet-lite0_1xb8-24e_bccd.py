# RetinaNet with three levels on an EfficientNet-lite0 from ImageNet, fine-tuned on
# BCCD.
_base_ = '../mmdet/retinanet_r18-narrow_1xb8-24e_bccd.py'
model = dict(
    # What EfficientNet-lite was trained with.
    data_preprocessor=dict(mean=[127.0] * 3, std=[128.0] * 3),
    backbone=dict(
        _delete_=True,
        type='frskd_mm.EfficientNetLite',
        arch='lite0',
        out_indices=(2, 3, 4),
    ),
    neck=dict(in_channels=[40, 112, 320]),
)
custom_hooks = [
    dict(type='frskd_mm.EpochSeedHook'),
    dict(type='frskd_mm.ChannelsLastHook'),
]
