# Plain Mask R-CNN on a ResNet-18 of quarter width, on scenes of the embedded digits.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/default_runtime.py',
    '../_base_/digits_det.py',
    '../_base_/schedule_digit_scenes.py',
]
_proposals = dict(nms_pre=200, max_per_img=50)
model = dict(
    data_preprocessor=dict(
        mean=[80.0, 80.0, 80.0],
        std=[60.0, 60.0, 60.0],
        bgr_to_rgb=False,
    ),
    backbone=dict(
        depth=18,
        base_channels=16,  # 64 in ResNet-18
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=None,
    ),
    neck=dict(
        in_channels=[16, 32, 64, 128],
        out_channels=64,
        num_outs=4,
        norm_cfg=dict(type='BN'),
    ),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # Digits are about 30 pixels high, and narrower.
        anchor_generator=dict(scales=[4], ratios=[1.4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64),
        bbox_head=dict(in_channels=64, fc_out_channels=128, num_classes=10),
        mask_roi_extractor=dict(out_channels=64),
        mask_head=dict(
            num_convs=2, in_channels=64, conv_out_channels=64, num_classes=10
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=_proposals,
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(
        rpn=_proposals,
        rcnn=dict(
            score_thr=0.0,  # CocoMetric gives nothing when there is no detection
            max_per_img=20,
        ),
    ),
)
_load = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromNDArray'),
            _load,
            dict(type='PackDetInputs'),
        ]
    )
)
val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
default_hooks = dict(
    logger=dict(interval=5), checkpoint=dict(interval=_base_.max_epochs)
)
