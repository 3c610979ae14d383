"""Tiny models and batches for the tests."""

from typing import Any, Dict

import pytest
import torch
from mmengine.registry import MODELS

#: For tests that trace a whole step; ``frskd_mm.utils.compiling`` refuses the others.
needs_tracing = pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_compiling'),
    reason='this PyTorch cannot trace a whole step',
)


def toy_student_cfg(num_classes: int = 10, **backbone: Any) -> Dict[str, Any]:
    """Config of a small ResNet-18 classifier with four feature levels."""
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=18,
            base_channels=8,
            out_indices=(0, 1, 2, 3),
            **backbone,
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=num_classes,
            in_channels=64,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def toy_frskd_cfg(alpha: float = 2.0, beta: float = 100.0, **frskd: Any) -> dict:
    """Config of FRSKD as for CIFAR-100."""
    return dict(
        type='frskd_mm.FRSKD',
        neck=dict(type='frskd_mm.BiFPNc'),
        soft_label=dict(type='frskd_mm.SoftLabelLoss', loss_weight=alpha),
        feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=beta),
        **frskd,
    )


def wide_resnet_cfg() -> Dict[str, Any]:
    """Config of a WRN-10-1 classifier with three feature levels."""
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='frskd_mm.WideResNet', depth=10, widen_factor=1, out_indices=(0, 1, 2)
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )


def toy_model(distiller: Dict[str, Any], **backbone: Any) -> torch.nn.Module:
    """Build and initialise the toy student with a distiller."""
    student = toy_student_cfg()
    student['backbone'].update(backbone)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )
    model.init_weights()
    # ResNets start with zeros here, and every block as the identity.
    for module in model.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def toy_distilled(**frskd: Any) -> torch.nn.Module:
    """Build and initialise the toy student with FRSKD."""
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(),
            distiller=toy_frskd_cfg(**frskd),
        )
    )
    model.init_weights()
    return model


def terms_of(losses: Dict[str, Any]) -> Dict[str, Any]:
    """What is optimised among a model's losses, without values to log."""
    return {name: value for name, value in losses.items() if 'loss' in name}


def toy_batch(size: int = 4, height: int = 16, width: int = 16) -> Dict[str, Any]:
    """Random images and labels, preprocessed, as ``model(**batch, mode=...)``."""
    from mmpretrain.structures import DataSample

    return dict(
        inputs=torch.randn(size, 3, height, width),
        data_samples=[
            DataSample().set_gt_label(torch.tensor([i % 10])) for i in range(size)
        ],
    )
