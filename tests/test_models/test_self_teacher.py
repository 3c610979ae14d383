"""What the self-teacher infers from the student."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from mmpretrain.models import ImageClassifier
from torch import nn
from toys import toy_frskd_cfg, toy_student_cfg


def build(student, **frskd):
    neck = frskd.pop('neck', dict(type='frskd_mm.BiFPNc'))
    cfg = {**toy_frskd_cfg(**frskd), 'neck': neck}
    return MODELS.build(dict(type='frskd_mm.Distilled', student=student, distiller=cfg))


def test_twin_is_the_students_rest_on_the_refined_channels():
    self_teacher = build(toy_student_cfg()).distiller.self_teacher
    assert self_teacher.neck.in_channels == [8, 16, 32, 64]
    assert self_teacher.neck.out_channels == [16, 32, 64, 128]
    twin = self_teacher.twin
    assert type(twin).__name__ == 'ImageClassifier'
    assert type(twin.backbone).__name__ == 'PassThrough'
    assert not list(twin.backbone.parameters())
    assert isinstance(twin.head.fc, nn.Linear)
    assert twin.head.fc.weight.shape == (10, 128)


@pytest.mark.parametrize('out_indices', [(2, 3), (1, 2, 3), (0, 3)])
def test_levels_are_those_of_out_indices(out_indices):
    student = toy_student_cfg()
    student['backbone']['out_indices'] = out_indices
    neck = build(student).distiller.self_teacher.neck
    assert neck.in_channels == [8 * 2**i for i in out_indices]


def test_bifpn_gives_the_twin_one_width():
    neck = dict(type='frskd_mm.BiFPN', out_channels=24)
    self_teacher = build(toy_student_cfg(), neck=neck).distiller.self_teacher
    assert self_teacher.neck.out_channels == [24] * 4
    assert self_teacher.twin.head.fc.weight.shape == (10, 24)


def test_a_neck_that_names_no_channels_gets_the_student_s():
    backbone = dict(type='VisionTransformer', img_size=32, patch_size=8)
    backbone['arch'] = dict(
        embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=64
    )
    student = dict(
        toy_student_cfg(),
        backbone=backbone,
        neck=dict(type='ClsBatchNormNeck', input_features=32),
        head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=32),
    )
    twin = build(student).distiller.self_teacher.twin
    assert twin.neck.bn.num_features == twin.head.layers.head.in_features == 32
    assert list(twin.backbone.adapters) == ['3']


def test_what_the_cpu_lacks_is_tried_on_the_accelerator(monkeypatch):
    places, extract_feat = ['cpu'], ImageClassifier.extract_feat

    def only_there(self, *args, **kwargs):
        if places[-1] == 'cpu':
            raise RuntimeError('implementation for device cpu not found')
        return extract_feat(self, *args, **kwargs)

    def move(self, device):
        places.append(str(device))

    monkeypatch.setattr('frskd_mm.models.tasks.base.get_device', lambda: 'cuda')
    monkeypatch.setattr(ImageClassifier, 'extract_feat', only_there)
    monkeypatch.setattr(ImageClassifier, 'to', move)
    build(toy_student_cfg())
    assert places[:3] == ['cpu', 'cuda', 'cpu']


def test_twin_settings_are_merged():
    twin = dict(head=dict(loss=dict(loss_weight=0.5)))
    self_teacher = build(toy_student_cfg(), twin=twin).distiller.self_teacher
    assert self_teacher.twin.head.loss_module.loss_weight == 0.5
    assert self_teacher.twin.head.fc.weight.shape == (10, 128)


@pytest.fixture
def printed(caplog):
    logger = MMLogger.get_instance('self_teacher', log_level='INFO')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger='self_teacher')
    yield lambda: [' '.join(line.split()) for line in caplog.text.splitlines()]
    logger.removeHandler(caplog.handler)


def test_what_was_inferred_is_printed(printed):
    build(toy_student_cfg())
    lines = printed()
    assert any('inferred with an image of 64x64' in line for line in lines)
    assert 'backbone (ResNet_CIFAR) -> BiFPNc -> twin' in lines
    for level, channels in enumerate((8, 16, 32, 64)):
        stride = 2**level
        shape = f'({channels}, {64 // stride}, {64 // stride})'
        assert f'{level} {stride} {shape} {2 * channels}' in lines
    assert 'head.in_channels: 64 -> 128' in lines


@pytest.mark.parametrize(
    ('width', 'advice'),
    [(1, ''), (8, '; a smaller neck.width of the distiller than 8 saves most')],
)
def test_its_size_is_printed(width, advice, printed):
    neck = dict(type='frskd_mm.BiFPNc', width=width)
    self_teacher = build(toy_student_cfg(), neck=neck).distiller.self_teacher
    own, of_student = (
        sum(parameter.numel() for parameter in model.parameters()) / 1e6
        for model in (self_teacher, MODELS.build(toy_student_cfg()))
    )
    size = f'parameters: {own:.2f} M; of the student: {of_student:.2f} M'
    assert size + advice in printed()


def test_dry_forward_leaves_the_student_as_it_was():
    torch.manual_seed(2)
    upstream = MODELS.build(toy_student_cfg())
    torch.manual_seed(2)
    model = build(toy_student_cfg())
    for name, value in upstream.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    assert all(module.training for module in model.modules())


def test_dry_forward_keeps_frozen_parts_in_eval_mode():
    student = toy_student_cfg(frozen_stages=1)
    model = build(student)
    assert not model.backbone.norm1.training
    assert model.backbone.layer4.training


def test_student_channels_may_be_given_when_they_agree():
    neck = dict(type='frskd_mm.BiFPNc', in_channels=(8, 16, 32, 64))
    build(toy_student_cfg(), neck=neck)


@pytest.mark.parametrize('given', [[8, 16, 32], [8, 16, 32, 65]])
def test_wrong_in_channels_are_refused(given):
    neck = dict(type='frskd_mm.BiFPNc', in_channels=given)
    with pytest.raises(ValueError, match=r'gives 4 maps with \[8, 16, 32, 64\]') as e:
        build(toy_student_cfg(), neck=neck)
    assert f'in_channels={given}' in str(e.value)
    assert 'student.backbone.out_indices' in str(e.value)


def test_vectors_of_several_layers_have_no_maps_but_the_layers_have():
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='VisionTransformer',
            arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8),
            img_size=64,
            patch_size=16,
            out_indices=(0, 1),
        ),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=8),
    )
    self_teacher = build(student).distiller.self_teacher
    assert [s.name for s in self_teacher.levels.stages] == ['layers.0', 'layers.1']


def test_a_neck_that_returns_no_maps_is_not_refined():
    with pytest.raises(ValueError, match='Leave source out of the distiller'):
        build(toy_student_cfg(), source='neck')


def test_unknown_source_is_refused():
    with pytest.raises(ValueError, match="one of .*'backbone', 'neck'.* got 'head'"):
        build(toy_student_cfg(), source='head')
