"""Tiny detectors of every family, and batches, for the detection tests."""

from copy import deepcopy
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor

from frskd_mm.utils.environment import CLASSIC, package_family

NUM_CLASSES = 3
GN = dict(type='GN', num_groups=4)


def _backbone(**kwargs: Any) -> dict:
    return dict(
        type='ResNet',
        depth=18,
        base_channels=8,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN'),
        init_cfg=None,
        **kwargs,
    )


def _fpn(num_outs: int = 3) -> dict:
    return dict(
        type='FPN', in_channels=[16, 32, 64], out_channels=16, num_outs=num_outs
    )


def _anchors(**kwargs: Any) -> dict:
    return dict(type='AnchorGenerator', strides=[8, 16, 32], **kwargs)


_SQUARE = dict(ratios=[1.0], octave_base_scale=4, scales_per_octave=1)
_DELTAS = dict(
    type='DeltaXYWHBBoxCoder',
    target_means=[0.0, 0.0, 0.0, 0.0],
    target_stds=[0.1, 0.1, 0.2, 0.2],
)
_FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25)
_QUALITY = dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0)
_TEST_CFG = dict(
    nms_pre=100,
    score_thr=0.0,
    nms=dict(type='nms', iou_threshold=0.5),
    max_per_img=20,
    min_bbox_size=0,
    mask_thr_binary=0.5,
)
_DENSE_TRAIN = dict(allowed_border=-1, pos_weight=-1, debug=False)


def _retinanet() -> dict:
    return dict(
        type='RetinaNet',
        bbox_head=dict(
            type='RetinaHead',
            stacked_convs=1,
            anchor_generator=_anchors(
                octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0]
            ),
            loss_cls=_FOCAL,
        ),
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner',
                pos_iou_thr=0.5,
                neg_iou_thr=0.4,
                min_pos_iou=0,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type='PseudoSampler'),
            **_DENSE_TRAIN,
        ),
    )


def _fcos() -> dict:
    return dict(
        type='FCOS',
        bbox_head=dict(
            type='FCOSHead',
            stacked_convs=1,
            strides=[8, 16, 32],
            regress_ranges=((-1, 32), (32, 64), (64, 1e8)),
            norm_cfg=GN,
        ),
    )


def _atss(head: str = 'ATSSHead', **kwargs: Any) -> dict:
    return dict(
        type='ATSS' if head == 'ATSSHead' else 'GFL',
        bbox_head=dict(
            type=head,
            stacked_convs=1,
            norm_cfg=GN,
            anchor_generator=_anchors(**_SQUARE),
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            **kwargs,
        ),
        train_cfg=dict(assigner=dict(type='ATSSAssigner', topk=9), **_DENSE_TRAIN),
    )


def _gfl() -> dict:
    return _atss('GFLHead', loss_cls=_QUALITY, reg_max=8)


def _yolox() -> dict:
    return dict(
        type='YOLOX',
        bbox_head=dict(type='YOLOXHead', stacked_convs=1),
        train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    )


def _rtmdet() -> dict:
    return dict(
        type='RTMDet',
        bbox_head=dict(
            type='RTMDetSepBNHead',
            stacked_convs=1,
            with_objectness=False,
            exp_on_reg=True,
            anchor_generator=dict(
                type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]
            ),
            bbox_coder=dict(type='DistancePointBBoxCoder'),
            loss_cls=_QUALITY,
            loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
            norm_cfg=dict(type='BN'),
        ),
        train_cfg=dict(
            assigner=dict(type='DynamicSoftLabelAssigner', topk=5), **_DENSE_TRAIN
        ),
    )


def _rtmdet_ins() -> dict:
    cfg = _rtmdet()
    cfg['bbox_head'].update(
        type='RTMDetInsSepBNHead',
        loss_mask=dict(type='DiceLoss', loss_weight=2.0, eps=5e-6, reduction='mean'),
    )
    cfg['bbox_head'].pop('exp_on_reg')
    return cfg


def _roi_assigner(pos: float, neg: float, low: bool = True) -> dict:
    return dict(
        type='MaxIoUAssigner',
        pos_iou_thr=pos,
        neg_iou_thr=neg,
        min_pos_iou=neg,
        match_low_quality=low,
        ignore_iof_thr=-1,
    )


def _sampler(num: int, pos_fraction: float, add_gt: bool) -> dict:
    return dict(
        type='RandomSampler',
        num=num,
        pos_fraction=pos_fraction,
        neg_pos_ub=-1,
        add_gt_as_proposals=add_gt,
    )


def _roi_extractor(size: int) -> dict:
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=16,
        featmap_strides=[8, 16, 32],
    )


def _box_head(**kwargs: Any) -> dict:
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=16,
        fc_out_channels=32,
        roi_feat_size=3,
        num_classes=NUM_CLASSES,
        bbox_coder=_DELTAS,
        **kwargs,
    )


def _faster_rcnn(mask: bool = False) -> dict:
    roi_head = dict(
        type='StandardRoIHead',
        bbox_roi_extractor=_roi_extractor(3),
        bbox_head=_box_head(),
    )
    if mask:
        roi_head.update(
            mask_roi_extractor=_roi_extractor(6),
            mask_head=dict(
                type='FCNMaskHead',
                num_convs=1,
                in_channels=16,
                conv_out_channels=16,
                num_classes=NUM_CLASSES,
                loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
            ),
        )
    return dict(
        type='MaskRCNN' if mask else 'FasterRCNN',
        rpn_head=dict(
            type='RPNHead',
            in_channels=16,
            feat_channels=16,
            anchor_generator=_anchors(scales=[4], ratios=[0.5, 1.0, 2.0]),
            bbox_coder=dict(_DELTAS, target_stds=[1.0] * 4),
        ),
        roi_head=roi_head,
        train_cfg=dict(
            rpn=dict(
                assigner=_roi_assigner(0.7, 0.3),
                sampler=_sampler(32, 0.5, False),
                **_DENSE_TRAIN,
            ),
            rpn_proposal=dict(
                nms_pre=50,
                max_per_img=30,
                nms=dict(type='nms', iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                assigner=_roi_assigner(0.5, 0.5, False),
                sampler=_sampler(16, 0.5, True),
                pos_weight=-1,
                mask_size=12,
                debug=False,
            ),
        ),
        test_cfg=dict(
            rpn=dict(
                nms_pre=50,
                max_per_img=20,
                nms=dict(type='nms', iou_threshold=0.7),
                min_bbox_size=0,
            ),
            rcnn=dict(
                score_thr=0.0,
                nms=dict(type='nms', iou_threshold=0.5),
                max_per_img=10,
                mask_thr_binary=0.5,
            ),
        ),
    )


def _cascade_rcnn() -> dict:
    cfg = _faster_rcnn()
    cfg.update(type='CascadeRCNN')
    cfg['roi_head'] = dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_roi_extractor=_roi_extractor(3),
        bbox_head=[_box_head(reg_class_agnostic=True) for _ in range(2)],
    )
    rcnn = cfg['train_cfg']['rcnn']
    cfg['train_cfg']['rcnn'] = [
        dict(rcnn, assigner=_roi_assigner(iou, iou, False)) for iou in (0.4, 0.5)
    ]
    return cfg


def _deformable_detr(**kwargs: Any) -> dict:
    attention = dict(embed_dims=16, num_levels=3, num_heads=2, batch_first=True)
    ffn = dict(embed_dims=16, feedforward_channels=32, ffn_drop=0.0)
    return dict(
        type='DeformableDETR',
        num_queries=12,
        num_feature_levels=3,
        neck=dict(
            type='ChannelMapper',
            in_channels=[16, 32, 64],
            kernel_size=1,
            out_channels=16,
            act_cfg=None,
            norm_cfg=GN,
            num_outs=3,
        ),
        encoder=dict(
            num_layers=1, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)
        ),
        decoder=dict(
            num_layers=2,
            return_intermediate=True,
            layer_cfg=dict(
                self_attn_cfg=dict(
                    embed_dims=16, num_heads=2, dropout=0.0, batch_first=True
                ),
                cross_attn_cfg=attention,
                ffn_cfg=ffn,
            ),
            post_norm_cfg=None,
        ),
        positional_encoding=dict(num_feats=8, normalize=True, offset=-0.5),
        bbox_head=dict(
            type='DeformableDETRHead',
            embed_dims=16,
            sync_cls_avg_factor=True,
            loss_cls=dict(_FOCAL, loss_weight=2.0),
            loss_bbox=dict(type='L1Loss', loss_weight=5.0),
            loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        ),
        train_cfg=dict(
            assigner=dict(
                type='HungarianAssigner',
                match_costs=[
                    dict(type='FocalLossCost', weight=2.0),
                    dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                    dict(type='IoUCost', iou_mode='giou', weight=2.0),
                ],
            )
        ),
        test_cfg=dict(max_per_img=10),
        **kwargs,
    )


def _dino() -> dict:
    if package_family() is CLASSIC:
        pytest.skip('the DINO of mmdet 3.3 has 256 channels and no fewer')
    cfg = _deformable_detr(with_box_refine=True, as_two_stage=True)
    cfg.update(
        type='DINO',
        dn_cfg=dict(
            label_noise_scale=0.5,
            box_noise_scale=1.0,
            group_cfg=dict(dynamic=True, num_groups=None, num_dn_queries=10),
        ),
    )
    cfg['positional_encoding'] = dict(num_feats=8, normalize=True, offset=0.0)
    cfg['bbox_head'] = dict(cfg['bbox_head'], type='DINOHead')
    return cfg


_FAMILIES = {
    'retinanet': _retinanet,
    'fcos': _fcos,
    'atss': _atss,
    'gfl': _gfl,
    'yolox': _yolox,
    'rtmdet': _rtmdet,
    'rtmdet_ins': _rtmdet_ins,
    'faster_rcnn': _faster_rcnn,
    'mask_rcnn': lambda: _faster_rcnn(mask=True),
    'cascade_rcnn': _cascade_rcnn,
    'deformable_detr': _deformable_detr,
    'dino': _dino,
}
FAMILIES = tuple(_FAMILIES)


def _cascade_mask_rcnn(
    kind: str = 'CascadeRCNN', head: str = 'CascadeRoIHead', **kwargs: Any
) -> dict:
    cfg = _cascade_rcnn()
    mask_head = _faster_rcnn(mask=True)['roi_head']['mask_head']
    cfg['type'] = kind
    cfg['roi_head'].update(
        type=head,
        mask_roi_extractor=_roi_extractor(6),
        mask_head=[deepcopy(mask_head) for _ in range(2)],
        **kwargs,
    )
    for stage in cfg['train_cfg']['rcnn']:
        stage['mask_size'] = 12
    return cfg


def _htc() -> dict:
    cfg = _cascade_mask_rcnn(
        'HybridTaskCascade',
        'HybridTaskCascadeRoIHead',
        interleaved=True,
        mask_info_flow=True,
    )
    first, second = cfg['roi_head']['mask_head']
    first.update(type='HTCMaskHead', with_conv_res=False)
    second.update(type='HTCMaskHead')
    return cfg


def _scnet() -> dict:
    cfg = _cascade_mask_rcnn('SCNet', 'SCNetRoIHead')
    roi_head = cfg['roi_head']
    for stage in roi_head['bbox_head']:
        stage['type'] = 'SCNetBBoxHead'
        stage.update(num_shared_fcs=2)
    roi_head['mask_head'] = dict(
        roi_head['mask_head'][0], type='SCNetMaskHead', num_convs=2
    )
    return cfg


def _pisa() -> dict:
    cfg = _faster_rcnn(mask=True)
    cfg['roi_head']['type'] = 'PISARoIHead'
    cfg['train_cfg']['rcnn'].update(
        sampler=dict(_sampler(16, 0.5, True), type='ScoreHLRSampler', k=0.5, bias=0.0),
        isr=dict(k=2, bias=0),
        carl=dict(k=1, bias=0.2),
    )
    return cfg


def _ohem() -> dict:
    cfg = _cascade_rcnn()
    for stage in cfg['train_cfg']['rcnn']:
        stage['sampler']['type'] = 'OHEMSampler'
    return cfg


def _seesaw() -> dict:
    cfg = _faster_rcnn()
    cfg['roi_head']['bbox_head']['loss_cls'] = dict(
        type='SeesawLoss', p=0.8, q=2.0, num_classes=NUM_CLASSES, loss_weight=1.0
    )
    return cfg


def _custom_sigmoid() -> dict:
    cfg = _faster_rcnn()
    cfg['roi_head']['bbox_head']['loss_cls'] = dict(
        type='CrossEntropyCustomLoss', use_sigmoid=True, num_classes=NUM_CLASSES
    )
    return cfg


def _sabl() -> dict:
    cfg = _faster_rcnn()
    cfg['roi_head']['bbox_head'] = dict(
        type='SABLHead',
        num_classes=NUM_CLASSES,
        cls_in_channels=16,
        reg_in_channels=16,
        roi_feat_size=3,
        reg_offset_out_channels=16,
        reg_cls_out_channels=16,
        num_reg_fcs=1,
        reg_feat_up_ratio=2,
        num_cls_fcs=1,
        cls_out_channels=16,
        bbox_coder=dict(type='BucketingBBoxCoder', num_buckets=6, scale_factor=1.7),
    )
    return cfg


def _mask_scoring() -> dict:
    cfg = _faster_rcnn(mask=True)
    cfg['type'] = 'MaskScoringRCNN'
    cfg['roi_head'].update(
        type='MaskScoringRoIHead',
        mask_iou_head=dict(
            type='MaskIoUHead',
            num_convs=1,
            num_fcs=1,
            roi_feat_size=6,
            in_channels=16,
            conv_out_channels=8,
            fc_out_channels=16,
            num_classes=NUM_CLASSES,
        ),
    )
    cfg['train_cfg']['rcnn']['mask_thr_binary'] = 0.5
    return cfg


def _grid() -> dict:
    cfg = _faster_rcnn()
    cfg['type'] = 'GridRCNN'
    cfg['roi_head'].update(
        type='GridRoIHead',
        grid_roi_extractor=_roi_extractor(14),
        grid_head=dict(
            type='GridHead',
            grid_points=9,
            num_convs=1,
            in_channels=16,
            point_feat_channels=4,
            norm_cfg=dict(type='GN', num_groups=4),
        ),
    )
    cfg['roi_head']['bbox_head']['with_reg'] = False
    cfg['train_cfg']['rcnn'].update(pos_radius=1, max_num_grid=192)
    return cfg


def _crowddet() -> dict:
    cfg = _faster_rcnn()
    cfg['type'] = 'CrowdDet'
    cfg['roi_head'].update(
        type='MultiInstanceRoIHead',
        bbox_head=dict(
            type='MultiInstanceBBoxHead',
            with_refine=False,
            num_shared_fcs=2,
            in_channels=16,
            fc_out_channels=32,
            roi_feat_size=3,
            num_classes=1,
            bbox_coder=_DELTAS,
        ),
    )
    cfg['train_cfg']['rcnn'].update(
        assigner=dict(type='MultiInstanceAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5),
        sampler=dict(_sampler(16, 0.5, False), type='MultiInsRandomSampler'),
    )
    return cfg


def _sparse_rcnn(mask: bool = False) -> dict:
    box_head = dict(
        type='DIIHead',
        num_classes=NUM_CLASSES,
        num_ffn_fcs=2,
        num_heads=2,
        num_cls_fcs=1,
        num_reg_fcs=1,
        feedforward_channels=16,
        in_channels=16,
        dropout=0.0,
        dynamic_conv_cfg=dict(
            type='DynamicConv',
            in_channels=16,
            feat_channels=8,
            out_channels=16,
            input_feat_shape=3,
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
        loss_cls=dict(_FOCAL, loss_weight=2.0),
        bbox_coder=dict(_DELTAS, clip_border=False, target_stds=[0.5, 0.5, 1.0, 1.0]),
    )
    roi_head = dict(
        type='SparseRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 1],
        proposal_feature_channel=16,
        bbox_roi_extractor=_roi_extractor(3),
        bbox_head=[box_head] * 2,
    )
    if mask:
        mask_head = dict(
            type='DynamicMaskHead',
            dynamic_conv_cfg=dict(
                type='DynamicConv',
                in_channels=16,
                feat_channels=8,
                out_channels=16,
                input_feat_shape=6,
                with_proj=False,
            ),
            num_convs=1,
            roi_feat_size=6,
            in_channels=16,
            conv_out_channels=16,
            num_classes=NUM_CLASSES,
            loss_mask=dict(type='DiceLoss', use_sigmoid=True, activate=True, eps=1e-5),
        )
        roi_head.update(mask_roi_extractor=_roi_extractor(6), mask_head=[mask_head] * 2)
    costs = [
        dict(type='FocalLossCost', weight=2.0),
        dict(type='BBoxL1Cost', weight=5.0, box_format='xyxy'),
        dict(type='IoUCost', iou_mode='giou', weight=2.0),
    ]
    stage = dict(
        assigner=dict(type='HungarianAssigner', match_costs=costs),
        sampler=dict(type='PseudoSampler'),
        pos_weight=1,
        mask_size=12,
    )
    return dict(
        type='QueryInst' if mask else 'SparseRCNN',
        rpn_head=dict(
            type='EmbeddingRPNHead', num_proposals=8, proposal_feature_channel=16
        ),
        roi_head=roi_head,
        train_cfg=dict(rpn=None, rcnn=[stage] * 2),
        test_cfg=dict(rpn=None, rcnn=dict(max_per_img=10, mask_thr_binary=0.5)),
    )


def mask_head(kind: str = 'Mask2FormerHead') -> dict:
    """Config of a tiny head that classifies masks, of mmdet."""
    attention = dict(embed_dims=16, num_heads=2, dropout=0.0, batch_first=True)
    ffn = dict(
        embed_dims=16,
        feedforward_channels=16,
        num_fcs=2,
        ffn_drop=0.0,
        act_cfg=dict(type='ReLU', inplace=True),
    )
    encoding = dict(num_feats=8, normalize=True)
    new = kind == 'Mask2FormerHead'
    scales = dict(num_levels=3, num_points=4) if new else {}
    decoder = dict(
        type='MSDeformAttnPixelDecoder' if new else 'TransformerEncoderPixelDecoder',
        norm_cfg=GN,
        act_cfg=dict(type='ReLU'),
        encoder=dict(
            num_layers=1,
            layer_cfg=dict(self_attn_cfg={**attention, **scales}, ffn_cfg=ffn),
        ),
        positional_encoding=encoding,
    )
    layer = dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn)
    head = dict(
        type=kind,
        in_channels=[8, 16, 32, 64],
        strides=[4, 8, 16, 32],
        feat_channels=16,
        out_channels=16,
        num_queries=6,
        pixel_decoder=decoder,
        enforce_decoder_input_project=False,
        positional_encoding=encoding,
        transformer_decoder=dict(
            num_layers=2,
            layer_cfg=layer,
            return_intermediate=True,
            **(dict(init_cfg=None) if new else {}),
        ),
        loss_cls=dict(
            type='CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=2.0,
            class_weight=[1.0] * NUM_CLASSES + [0.1],
        ),
        loss_mask=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=5.0)
        if new
        else dict(_FOCAL, loss_weight=20.0),
        loss_dice=dict(
            type='DiceLoss',
            use_sigmoid=True,
            activate=True,
            naive_dice=True,
            eps=1.0,
        ),
    )
    if new:
        decoder['num_outs'] = 3
        head['num_transformer_feat_level'] = 3
    else:
        head.pop('strides')
    return head


def mask_training(kind: str = 'Mask2FormerHead') -> dict:
    """Config of the matching that such a head trains with."""
    new = kind == 'Mask2FormerHead'
    mask_cost = (
        dict(type='CrossEntropyLossCost', weight=5.0, use_sigmoid=True)
        if new
        else dict(type='FocalLossCost', weight=20.0, binary_input=True)
    )
    costs = [
        dict(type='ClassificationCost', weight=2.0),
        mask_cost,
        dict(type='DiceCost', weight=5.0, pred_act=True, eps=1.0),
    ]
    return dict(
        num_points=64,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        assigner=dict(type='HungarianAssigner', match_costs=costs),
        sampler=dict(type='MaskPseudoSampler'),
    )


def _mask_former(kind: str = 'MaskFormer') -> dict:
    classes = dict(num_things_classes=NUM_CLASSES, num_stuff_classes=0)
    backbone = _backbone()
    backbone['out_indices'] = (0, 1, 2, 3)
    return dict(
        type=kind,
        backbone=backbone,
        neck=None,
        panoptic_head=dict(mask_head(f'{kind}Head'), **classes),
        panoptic_fusion_head=dict(
            type='MaskFormerFusionHead', loss_panoptic=None, init_cfg=None, **classes
        ),
        train_cfg=mask_training(f'{kind}Head'),
        test_cfg=dict(
            panoptic_on=False,
            semantic_on=False,
            instance_on=True,
            max_per_image=10,
            iou_thr=0.8,
            filter_low_score=True,
        ),
    )


def _yolov3() -> dict:
    return dict(
        type='YOLOV3',
        backbone=_backbone(),
        neck=dict(
            type='YOLOV3Neck',
            num_scales=3,
            in_channels=[64, 32, 16],
            out_channels=[32, 16, 8],
        ),
        bbox_head=dict(
            type='YOLOV3Head',
            num_classes=NUM_CLASSES,
            in_channels=[32, 16, 8],
            out_channels=[16, 16, 16],
            anchor_generator=dict(
                type='YOLOAnchorGenerator',
                base_sizes=[
                    [(48, 40), (60, 56)],
                    [(24, 30), (32, 24)],
                    [(8, 8), (12, 16)],
                ],
                strides=[32, 16, 8],
            ),
            featmap_strides=[32, 16, 8],
        ),
        train_cfg=dict(
            assigner=dict(
                type='GridAssigner', pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0
            )
        ),
    )


def _solo(head: str = 'SOLOHead', **kwargs: Any) -> dict:
    return dict(
        type='SOLOv2' if head == 'SOLOV2Head' else 'SOLO',
        neck=_fpn(5),
        mask_head=dict(
            type=head,
            num_classes=NUM_CLASSES,
            in_channels=16,
            stacked_convs=1,
            feat_channels=16,
            strides=[16, 16, 32, 64, 64],
            scale_ranges=((1, 96), (24, 192), (48, 384), (192, 768), (384, 2048)),
            pos_scale=0.2,
            num_grids=[6, 5, 4, 3, 2],
            cls_down_index=0,
            loss_mask=dict(type='DiceLoss', use_sigmoid=True, loss_weight=3.0),
            loss_cls=_FOCAL,
            norm_cfg=GN,
            **kwargs,
        ),
        test_cfg=dict(
            nms_pre=500,
            score_thr=0.1,
            mask_thr=0.5,
            filter_thr=0.05,
            kernel='gaussian',
            sigma=2.0,
            max_per_img=10,
        ),
    )


def _solov2() -> dict:
    features = dict(
        feat_channels=8,
        start_level=0,
        end_level=2,
        out_channels=8,
        mask_stride=8,
        norm_cfg=GN,
    )
    return _solo('SOLOV2Head', mask_feature_head=features)


def _tood() -> dict:
    cfg = _atss('TOODHead', loss_cls=_QUALITY, initial_loss_cls=_FOCAL)
    cfg['type'] = 'TOOD'
    cfg['bbox_head']['loss_cls'] = dict(
        type='QualityFocalLoss', use_sigmoid=True, activated=True, beta=2.0
    )
    cfg['bbox_head']['initial_loss_cls'] = dict(_FOCAL, activated=True)
    cfg['bbox_head']['stacked_convs'] = 2
    cfg['train_cfg'] = dict(
        initial_epoch=4,
        initial_assigner=dict(type='ATSSAssigner', topk=9),
        assigner=dict(type='TaskAlignedAssigner', topk=13),
        alpha=1,
        beta=6,
        **_DENSE_TRAIN,
    )
    return cfg


def _ssd() -> dict:
    train_cfg = dict(
        _retinanet()['train_cfg'], smoothl1_beta=1.0, neg_pos_ratio=3, debug=False
    )
    return dict(
        type='SingleStageDetector',
        bbox_head=dict(
            type='SSDHead',
            num_classes=NUM_CLASSES,
            in_channels=[16] * 3,
            anchor_generator=_anchors(
                octave_base_scale=4, scales_per_octave=2, ratios=[0.5, 1.0]
            ),
        ),
        train_cfg=train_cfg,
    )


def _rpn() -> dict:
    cfg = _faster_rcnn()
    return dict(
        type='RPN',
        rpn_head=dict(cfg['rpn_head'], num_classes=1),
        train_cfg=dict(rpn=cfg['train_cfg']['rpn']),
        test_cfg=dict(rpn=cfg['test_cfg']['rpn']),
    )


def _centernet() -> dict:
    return dict(
        type='CenterNet',
        bbox_head=dict(
            type='CenterNetHead',
            num_classes=NUM_CLASSES,
            in_channels=16,
            feat_channels=16,
        ),
    )


_FAMILIES.update(
    cascade_mask_rcnn=_cascade_mask_rcnn,
    htc=_htc,
    scnet=_scnet,
    pisa=_pisa,
    ohem=_ohem,
    seesaw=_seesaw,
    custom_sigmoid=_custom_sigmoid,
    sabl=_sabl,
    mask_scoring=_mask_scoring,
    grid=_grid,
    crowddet=_crowddet,
    sparse_rcnn=_sparse_rcnn,
    queryinst=lambda: _sparse_rcnn(mask=True),
    mask2former=lambda: _mask_former('Mask2Former'),
    maskformer=_mask_former,
    yolov3=_yolov3,
    solo=_solo,
    decoupled_solo=lambda: _solo('DecoupledSOLOHead'),
    solov2=_solov2,
    tood=_tood,
    ssd=_ssd,
    rpn=_rpn,
    centernet=_centernet,
)
#: Detectors whose heads are rare; FAMILIES has what most tests run over.
RARE = tuple(family for family in _FAMILIES if family not in FAMILIES)
MASKS = (
    'mask_rcnn',
    'rtmdet_ins',
    'cascade_mask_rcnn',
    'htc',
    'scnet',
    'pisa',
    'mask_scoring',
    'queryinst',
    'mask2former',
    'maskformer',
    'solo',
    'decoupled_solo',
    'solov2',
)
TWO_STAGE = ('faster_rcnn', 'mask_rcnn', 'cascade_rcnn')
DETR = ('deformable_detr', 'dino')
ONE_STAGE = tuple(f for f in FAMILIES if f not in (*TWO_STAGE, *DETR))


def student_cfg(family: str) -> dict:
    """Config of a tiny detector."""
    cfg = deepcopy(_FAMILIES[family]())
    cfg['type'] = f'mmdet.{cfg["type"]}'
    cfg.setdefault('backbone', _backbone())
    cfg.setdefault('neck', _fpn())
    if 'bbox_head' in cfg:
        cfg['bbox_head'].setdefault('num_classes', NUM_CLASSES)
        if family not in (*DETR, 'yolov3', 'centernet', 'ssd'):
            cfg['bbox_head'].update(in_channels=16, feat_channels=16)
    cfg.setdefault('test_cfg', _TEST_CFG)
    cfg['data_preprocessor'] = dict(
        type='mmdet.DetDataPreprocessor', pad_mask=family in MASKS
    )
    return Config(cfg)._cfg_dict


def frskd_cfg(
    alpha: float = 1.0,
    beta: float = 1.0,
    soft_label: Optional[dict] = None,
    feature_loss: Optional[dict] = None,
    neck: Optional[dict] = None,
    **frskd: Any,
) -> dict:
    """Config of FRSKD as configs/_base_/frskd_det.py has it, with 4 groups."""
    return dict(
        type='frskd_mm.FRSKD',
        neck=neck or dict(type='frskd_mm.BiFPNc', width=1, norm_cfg=GN),
        soft_label=dict(
            type='frskd_mm.DetSoftLabelLoss', loss_weight=alpha, **(soft_label or {})
        ),
        feature_loss=dict(
            type='frskd_mm.DetAttentionTransferLoss',
            loss_weight=beta,
            **(feature_loss or {}),
        ),
        **frskd,
    )


def distilled(family: str, **frskd: Any) -> torch.nn.Module:
    """Build and initialise a tiny detector with FRSKD."""
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=student_cfg(family),
            distiller=frskd_cfg(**frskd),
        )
    )
    model.init_weights()
    return model


BOXES = ([[4, 6, 40, 44], [30, 20, 62, 60]], [[10, 10, 30, 34]])


def batch(
    boxes: Sequence[Sequence[Sequence[float]]] = BOXES,
    height: int = 64,
    width: int = 64,
    masks: bool = False,
) -> Dict[str, Any]:
    """Random images with given boxes, as the data preprocessor gives them."""
    return dict(
        inputs=torch.randn(len(boxes), 3, height, width),
        data_samples=[_sample(b, height, width, masks) for b in boxes],
    )


def _sample(boxes: List[Sequence[float]], height: int, width: int, masks: bool) -> Any:
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    shape = (height, width)
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_shape=shape,
            ori_shape=shape,
            pad_shape=shape,
            batch_input_shape=shape,
            scale_factor=(1.0, 1.0),
        )
    )
    tensor = torch.tensor(boxes, dtype=torch.get_default_dtype()).reshape(-1, 4)
    sample.gt_instances = InstanceData(
        bboxes=tensor, labels=torch.arange(len(boxes)) % NUM_CLASSES
    )
    if masks:
        bitmaps = np.zeros((len(boxes), height, width), dtype=np.uint8)
        for bitmap, (x1, y1, x2, y2) in zip(bitmaps, tensor.int().tolist()):
            bitmap[y1:y2, x1:x2] = 1
        sample.gt_instances.masks = BitmapMasks(bitmaps, height, width)
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    return sample


def family_batch(family: str, **kwargs: Any) -> Dict[str, Any]:
    """Return a batch with what the family needs."""
    return batch(masks=family in MASKS, **kwargs)


def total_loss(model: torch.nn.Module, data: Dict[str, Any]) -> Tuple[Tensor, dict]:
    """Return the sum of a batch's terms, and their values by name."""
    return model.parse_losses(model.loss(data['inputs'], data['data_samples']))


def run_both(model: torch.nn.Module, data: Dict[str, Any]) -> Tuple[Any, Any]:
    """Return the passes of the student and of its self-teacher."""
    distiller = model.distiller
    student = distiller.run_student(model, **data, source=distiller.source)
    return student, distiller.run_self_teacher(model, student, data['data_samples'])
