"""Tiny segmentors and batches."""

from typing import Any, Dict, List

import torch
from mmengine.registry import MODELS

NORM = dict(type='BN', requires_grad=True)


def backbone_cfg(**kwargs: Any) -> Dict[str, Any]:
    """A narrow ResNet-18, dilated so that three levels share a stride."""
    return dict(
        type='ResNetV1c',
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=NORM,
        contract_dilation=True,
        **kwargs,
    )


def head_cfg(**kwargs: Any) -> Dict[str, Any]:
    """An FCN head for the coarsest of the backbone's levels."""
    return {
        'type': 'FCNHead',
        'in_channels': 64,
        'in_index': 3,
        'channels': 8,
        'num_convs': 1,
        'num_classes': 5,
        'norm_cfg': NORM,
        **kwargs,
    }


def student_cfg(**kwargs: Any) -> Dict[str, Any]:
    """FCN with an auxiliary head."""
    return {
        'type': 'mmseg.EncoderDecoder',
        'backbone': backbone_cfg(),
        'decode_head': head_cfg(),
        'auxiliary_head': head_cfg(in_channels=32, in_index=2),
        'train_cfg': dict(),
        'test_cfg': dict(mode='whole'),
        **kwargs,
    }


def cascade_cfg() -> Dict[str, Any]:
    """OCRNet: the second head refines what the first one gives."""
    cfg = student_cfg(
        type='mmseg.CascadeEncoderDecoder',
        num_stages=2,
        decode_head=[
            head_cfg(in_channels=32, in_index=2),
            head_cfg(type='OCRHead', ocr_channels=4, num_convs=None),
        ],
    )
    del cfg['decode_head'][1]['num_convs'], cfg['auxiliary_head']
    return cfg


def point_rend_cfg() -> Dict[str, Any]:
    """PointRend: the second head scores points of its own choice."""
    cfg = student_cfg(
        type='mmseg.CascadeEncoderDecoder',
        num_stages=2,
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4),
        decode_head=[
            dict(
                type='FPNHead',
                in_channels=[8] * 4,
                in_index=[0, 1, 2, 3],
                feature_strides=[4, 8, 8, 8],
                channels=8,
                num_classes=5,
                norm_cfg=NORM,
            ),
            dict(
                type='PointHead',
                in_channels=[8],
                in_index=[0],
                channels=8,
                num_classes=5,
            ),
        ],
        train_cfg=dict(num_points=16, oversample_ratio=3, importance_sample_ratio=0.75),
        test_cfg=dict(
            mode='whole', subdivision_steps=1, subdivision_num_points=16, scale_factor=2
        ),
    )
    del cfg['auxiliary_head']
    return cfg


def frskd_cfg(alpha: float = 1.0, beta: float = 1.0, **kwargs: Any) -> Dict[str, Any]:
    """FRSKD as in ``configs/_base_/frskd_seg.py``, narrow."""
    return {
        'type': 'frskd_mm.FRSKD',
        'neck': dict(type='frskd_mm.BiFPNc', width=1),
        'soft_label': dict(type='frskd_mm.PixelSoftLabelLoss', loss_weight=alpha),
        'feature_loss': dict(
            type='frskd_mm.AttentionTransferLoss', loss_weight=beta, reduction='sum'
        ),
        **kwargs,
    }


def build(student: Dict[str, Any], **frskd: Any) -> torch.nn.Module:
    """Build, initialise and shake a distilled segmentor.

    ResNets start with every block as the identity; random norms let all
    parameters matter.
    """
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=frskd_cfg(**frskd))
    )
    model.init_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.train()


def batch(
    size: int = 2,
    height: int = 32,
    width: int = 32,
    num_classes: int = 5,
    ignored: float = 0.25,
) -> Dict[str, Any]:
    """Random images and labels, the given part of the pixels ignored."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples: List[SegDataSample] = []
    for i in range(size):
        labels = torch.randint(0, num_classes, (1, height, width))
        labels[torch.rand(labels.shape) < ignored] = 255
        shape = (height, width)
        samples.append(
            SegDataSample(
                gt_sem_seg=PixelData(data=labels),
                metainfo=dict(
                    img_shape=shape,
                    ori_shape=shape,
                    pad_shape=shape,
                    img_path=f'images/{i}.jpg',
                    seg_map_path=f'labels/{i}.png',
                ),
            )
        )
    return dict(inputs=torch.randn(size, 3, height, width), data_samples=samples)


def untrained(model: torch.nn.Module) -> List[str]:
    """Names of trainable parameters that got no gradient."""
    return [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
