"""Images and configs that need care, on every family of detectors."""

import math

import pytest
import torch
from det_toys import (
    DETR,
    FAMILIES,
    ONE_STAGE,
    TWO_STAGE,
    batch,
    distilled,
    family_batch,
    student_cfg,
    total_loss,
)
from mmengine.registry import MODELS

EDGES = {
    'one image without boxes': dict(boxes=([[4, 6, 40, 44]], [])),
    'no box at all': dict(boxes=([], [])),
    'batch of one': dict(boxes=([[4, 6, 40, 44]],)),
    'odd size': dict(height=75, width=109),
}


@pytest.mark.parametrize('edge', EDGES)
@pytest.mark.parametrize('family', FAMILIES)
def test_edge_cases_are_finite(family, edge):
    if (family, edge) == ('rtmdet_ins', 'odd size'):
        pytest.skip('its mask head needs sizes that 8 divides, with FRSKD or without')
    model = distilled(
        family,
        soft_label=dict(bbox_weight=1.0),
        feature_loss={} if family in DETR else dict(foreground='confidence'),
    ).train()
    total, logs = total_loss(model, family_batch(family, **EDGES[edge]))
    total.backward()
    assert all(math.isfinite(value) for value in logs.values())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('foreground', [None, 'confidence', 'boxes'])
@pytest.mark.parametrize('family', [*ONE_STAGE, 'faster_rcnn'])
def test_boxes_without_area_have_no_foreground(family, foreground):
    flat = [[10.0, 10.0, 10.0, 30.0]]
    model = distilled(
        family,
        soft_label=dict(foreground=foreground, bbox_weight=1.0),
        feature_loss=dict(foreground=foreground),
        self_teacher_loss_weight=0.0,
    ).train()
    losses = model.loss(**family_batch(family, boxes=(flat, [])))
    (losses['loss_kd'] + losses['loss_at']).backward()
    assert torch.isfinite(losses['loss_kd'])
    if foreground == 'boxes':
        assert losses['loss_at'] == 0
        if family in ONE_STAGE:
            assert losses['loss_kd'] == 0
    else:
        assert losses['loss_kd'] > 0
        assert losses['loss_at'] > 0


@pytest.mark.parametrize('family', FAMILIES)
def test_bf16_autocast_is_finite(family):
    model, data = distilled(family).train(), family_batch(family)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        if family in TWO_STAGE:
            plain = MODELS.build(student_cfg(family)).train()
            with pytest.raises(RuntimeError, match='BFloat16'):
                total_loss(plain, data)
            pytest.skip("mmcv's NMS of proposals has no bf16, with FRSKD or without")
        total, logs = total_loss(model, data)
    total.backward()
    assert torch.isfinite(total)
    assert logs['loss_kd'] > 0


@pytest.mark.parametrize(
    ('family', 'frskd', 'message'),
    [
        (
            'retinanet',
            dict(neck=dict(type='frskd_mm.BiFPN', out_channels=[8, 16, 24])),
            'one number for all levels',
        ),
        ('fcos', dict(source='head'), 'source must be one of'),
        (
            'fcos',
            dict(neck=dict(type='frskd_mm.BiFPNc', in_channels=[16, 16])),
            'Remove in_channels',
        ),
    ],
)
def test_wrong_configs_are_refused_with_the_fix(family, frskd, message):
    with pytest.raises(ValueError, match=message):
        distilled(family, **frskd)


def test_refined_maps_of_another_width_are_fitted_to_the_twin():
    family = 'deformable_detr'
    neck = dict(type='frskd_mm.BiFPN', out_channels=32)
    model, data = distilled(family, neck=neck).train(), family_batch(family)
    total, logs = total_loss(model, data)
    total.backward()
    assert logs['self_teacher.loss_cls'] > 0
    adapters = [
        parameter
        for name, parameter in model.distiller.named_parameters()
        if 'adapters' in name and name.endswith('weight')
    ]
    assert adapters
    assert all(weight.grad.abs().sum() > 0 for weight in adapters)


@pytest.mark.parametrize('family', ['fcos', 'gfl', 'mask_rcnn'])
def test_one_soft_label_loss_serves_detectors_too(family):
    model, data = distilled(family).train(), family_batch(family)
    distiller = model.distiller
    student = distiller.run_student(model, **data, source=distiller.source)
    teacher = distiller.run_self_teacher(model, student, data['data_samples'])
    heads = distiller.task.soft_labels(student, teacher, data['data_samples'])
    settings = dict(temperature=2.0, foreground='boxes', bbox_weight=0.5)
    detectors, general = (
        MODELS.build(dict(type=f'frskd_mm.{name}', **settings))(heads)
        for name in ('DetSoftLabelLoss', 'SoftLabelLoss')
    )
    assert detectors == general > 0


def test_confidence_of_queries_cannot_weigh_maps():
    model = distilled('deformable_detr', feature_loss=dict(foreground='confidence'))
    with pytest.raises(ValueError, match="foreground='boxes'"):
        model.loss(**batch())


def test_labels_out_of_range_are_refused():
    data = batch()
    data['data_samples'][0].gt_instances.labels[0] = 3
    with pytest.raises(ValueError, match=r'num_classes=3'):
        distilled('faster_rcnn').loss(**data)


@pytest.mark.parametrize('family', ['deformable_detr', 'dino'])
def test_teachers_that_need_training_mode_are_refused_when_built(family):
    distiller = dict(
        type='frskd_mm.PretrainedTeacher',
        teacher=student_cfg(family),
        checkpoint='never_read.pth',
        soft_label=dict(type='frskd_mm.DetSoftLabelLoss'),
    )
    with pytest.raises(TypeError, match='cannot be the teacher'):
        MODELS.build(
            dict(
                type='frskd_mm.Distilled',
                student=student_cfg(family),
                distiller=distiller,
            )
        )
