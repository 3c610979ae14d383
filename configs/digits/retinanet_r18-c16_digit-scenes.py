# Plain RetinaNet on a ResNet-18 of quarter width, on scenes of the embedded digits.
_base_ = [
    'mmdet::_base_/default_runtime.py',
    '../_base_/retinanet_r18-narrow.py',
    '../_base_/digits_det.py',
    '../_base_/schedule_digit_scenes.py',
]
model = dict(
    data_preprocessor=dict(
        mean=[80.0, 80.0, 80.0],
        std=[60.0, 60.0, 60.0],
    ),
    backbone=dict(base_channels=16),  # 64 in ResNet-18
    neck=dict(in_channels=[32, 64, 128]),
    bbox_head=dict(
        num_classes=10,
        stacked_convs=1,
        # Digits are about 30 pixels high, and narrower.
        anchor_generator=dict(ratios=[1.4]),
    ),
    test_cfg=dict(
        nms_pre=200,
        score_thr=0.0,  # CocoMetric gives nothing when there is no detection
        max_per_img=20,
    ),
)
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(interval=_base_.max_epochs)
)
