"""FRSKD changes no segmentor's recipe; the published wiring."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope

CONFIGS = sorted((Path(__file__).resolve().parents[2] / 'configs/mmseg').glob('*.py'))
PUBLISHED = [path for path in CONFIGS if path.stem.startswith('frskd_efficientnet')]


def without_downloads(cfg):
    """Drop what names pretrained weights."""
    if isinstance(cfg, dict):
        return {
            key: without_downloads(value)
            for key, value in cfg.items()
            if key != 'pretrained'
            and not (key == 'init_cfg' and (value or {}).get('type') == 'Pretrained')
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(without_downloads(value) for value in cfg)
    return cfg


def without_scopes(cfg):
    """Drop the marks of where MMEngine found an inherited config."""
    if isinstance(cfg, dict):
        return {k: without_scopes(v) for k, v in cfg.items() if k != '_scope_'}
    if isinstance(cfg, (list, tuple)):
        return [without_scopes(value) for value in cfg]
    return cfg


def build(path):
    """Build and initialise a config's model for the CPU, offline."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(without_downloads(deepcopy(cfg.model.to_dict())))
    model = revert_sync_batchnorm(model)
    model.init_weights()
    return cfg, model.train()


def test_configs_were_found():
    assert len(CONFIGS) >= 8
    assert len(PUBLISHED) == 2


@pytest.mark.parametrize(
    'path',
    [path for path in CONFIGS if path.stem.startswith('frskd')],
    ids=lambda path: path.stem,
)
def test_the_student_is_the_plain_config(path):
    """FRSKD changes neither the student nor its recipe."""
    cfg = Config.fromfile(path)
    plain_path = path.with_name(path.name.replace('frskd_', ''))
    if plain_path.exists():
        plain = Config.fromfile(plain_path)
    else:
        base = next(
            line.split("'")[1]
            for line in path.read_text().splitlines()
            if 'mmseg::' in line
        )
        assert base.endswith(plain_path.name)
        from frskd_mm.engine import load_config

        plain = load_config(base)
    student = without_scopes(cfg.model.student.to_dict())
    expected = without_scopes(plain.model.to_dict())
    if path in PUBLISHED:
        assert student['neck'].pop('last_bottom_up')
        assert not expected['neck'].pop('last_bottom_up')
    assert student == expected
    for key in ('param_scheduler', 'train_cfg', 'train_dataloader', 'custom_hooks'):
        assert without_scopes(cfg.get(key)) == without_scopes(plain.get(key)), key
    optimizer = without_scopes(cfg.optim_wrapper.optimizer)
    assert optimizer == without_scopes(plain.optim_wrapper.optimizer)


@pytest.mark.parametrize('path', PUBLISHED, ids=lambda path: path.stem)
def test_published_recipe(path):
    cfg, model = build(path)
    width = {'b0': 64, 'b1': 88}[cfg.model.student.backbone.arch]
    levels = model.extract_feat(torch.randn(2, 3, 128, 128))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (width, size, size) for size in (32, 16, 8, 4, 2, 1)
    ]
    assert len(model.neck.bifpn.layers) == 3
    self_teacher = model.distiller.self_teacher
    assert [layer.bottom_up is None for layer in self_teacher.neck.layers] == [
        False,
        True,
    ]
    assert self_teacher.twin.decode_head.in_channels == width
    assert model.num_classes == 21
    assert model.distiller.source == 'neck'
    assert not model.distiller.detach_inputs
    assert model.distiller.soft_label.temperature == 1
    assert model.distiller.soft_label.loss_weight == 1
    assert model.distiller.feature_loss.loss_weight == 50
    assert model.distiller.feature_loss.reduction == 'mean'

    hub = MessageHub.get_instance('published')
    hub.update_info('max_epochs', cfg.train_cfg.max_epochs)
    factors = []
    for epoch in range(60):
        hub.update_info('epoch', epoch)
        factors.append(model.distiller.weight_schedule())
    expected = [math.exp(-5 * (1 - t / 20) ** 2) for t in range(1, 21)]
    assert factors == pytest.approx([0.0] * 40 + expected)

    wrapper = cfg.optim_wrapper
    assert wrapper.optimizer == dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4
    )
    assert wrapper.clip_grad == dict(type='value', clip_value=2.0)
    assert cfg.train_dataloader.batch_size * wrapper.accumulative_counts == 32
    assert cfg.param_scheduler[0].milestones == [40]
    lists = [
        (dataset.data_root, dataset.ann_file)
        for dataset in (
            *cfg.train_dataloader.dataset.datasets,
            cfg.test_dataloader.dataset,
        )
    ]
    assert lists == [
        ('data/VOCdevkit/VOC2007', 'ImageSets/Segmentation/trainval.txt'),
        ('data/VOCdevkit/VOC2012', 'ImageSets/Segmentation/trainval.txt'),
        ('data/VOCdevkit/VOC2007', 'ImageSets/Segmentation/test.txt'),
    ]


def test_published_pipeline_crops_and_blurs():
    import numpy as np

    cfg = Config.fromfile(PUBLISHED[0])
    init_default_scope('mmseg')
    results = dict(
        img=np.random.randint(0, 256, (60, 80, 3), dtype=np.uint8),
        gt_seg_map=np.random.randint(0, 21, (60, 80), dtype=np.uint8),
        seg_fields=['gt_seg_map'],
        img_shape=(60, 80),
        ori_shape=(60, 80),
    )
    for step in cfg.train_pipeline[2:-1]:  # without loading and packing
        results = TRANSFORMS.build(step)(results)
    assert results['img'].shape[:2] == results['gt_seg_map'].shape
    assert max(results['img'].shape[:2]) <= 512
