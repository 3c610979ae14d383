"""ONE: its terms against the equations, and whom they train."""

import math

import pytest
import reference
import torch
from distiller_checks import (
    assert_all_parameters_are_trained,
    assert_leaves_a_plain_student,
    toy_model,
    trained_parts,
)
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from toys import toy_batch

from frskd_mm.models.backbones import WideResNet
from frskd_mm.models.distillers.one import find_last_stage

PARTS = {
    'backbone.layer4': 'last_stage',
    'backbone.': 'trunk',
    'head.': 'student_head',
    'distiller.gate.': 'gate',
    'distiller.branches.0.': 'branch_2',
    'distiller.branches.1.': 'branch_3',
}
STUDENT = {'trunk', 'last_stage', 'student_head'}
EVERYTHING = STUDENT | {'gate', 'branch_2', 'branch_3'}


def one_cfg(**kwargs):
    return dict(
        type='frskd_mm.ONE',
        soft_label=dict(
            type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=1.0
        ),
        **kwargs,
    )


def test_terms_equal_the_equations():
    model, batch = toy_model(one_cfg()), toy_batch()
    labels = [sample.gt_label.item() for sample in batch['data_samples']]
    losses = model(**batch, mode='loss')
    backbone, distiller = model.backbone, model.distiller
    x = backbone.relu(backbone.norm1(backbone.conv1(batch['inputs'])))
    for name in ('layer1', 'layer2', 'layer3'):
        x = getattr(backbone, name)(x)
    logits = [
        reference.classify(stage(x), head.fc.weight, head.fc.bias)
        for stage, head in (
            (backbone.layer4, model.head),
            *((branch.stage, branch.twin.head) for branch in distiller.branches),
        )
    ]
    pooled = x.mean(dim=(2, 3)) @ distiller.gate.fc.weight.T + distiller.gate.fc.bias
    mean, var = pooled.mean(dim=0), pooled.var(dim=0, unbiased=False)
    gates = torch.exp(reference.relu((pooled - mean) / torch.sqrt(var + 1e-5)))
    gates = gates / gates.sum(dim=1, keepdim=True)
    ensemble = sum(gates[:, i : i + 1] * z for i, z in enumerate(logits))
    expected = {
        'student.loss': reference.cross_entropy(logits[0], labels),
        'branch_2.loss': reference.cross_entropy(logits[1], labels),
        'branch_3.loss': reference.cross_entropy(logits[2], labels),
        'ensemble.loss': reference.cross_entropy(ensemble, labels),
        'loss_kd': sum(reference.soft_label(z, ensemble, 3.0) for z in logits),
    }
    assert set(losses) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ('term', 'reaches'),
    [
        ('student.loss', STUDENT),
        ('branch_2.loss', {'trunk', 'branch_2'}),
        ('branch_3.loss', {'trunk', 'branch_3'}),
        ('ensemble.loss', EVERYTHING),
        ('loss_kd', EVERYTHING - {'gate'}),
    ],
)
def test_each_term_trains_only_its_parts(term, reaches):
    assert trained_parts(toy_model(one_cfg()), term, PARTS) == reaches


def test_every_parameter_is_trained_and_the_student_is_plain():
    model = toy_model(one_cfg())
    assert_all_parameters_are_trained(model)
    assert_leaves_a_plain_student(model)


def test_branches_start_differently_and_like_the_backbone():
    model = toy_model(one_cfg())
    stages = [
        model.backbone.layer4,
        *(branch.stage for branch in model.distiller.branches),
    ]
    weights = [stage[0].conv2.weight for stage in stages]
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    # He initialisation, as the backbone's init_cfg says.
    for weight in weights:
        assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_branches_of_a_backbone_without_init_cfg_start_differently():
    model = toy_model(one_cfg(), init_cfg=[])
    first, second = (branch.stage[0].conv2 for branch in model.distiller.branches)
    assert not torch.equal(first.weight, second.weight)


def test_number_of_branches():
    losses = toy_model(one_cfg(num_branches=2))(**toy_batch(), mode='loss')
    assert set(losses) == {'student.loss', 'branch_2.loss', 'ensemble.loss', 'loss_kd'}


@pytest.mark.parametrize('epoch', [0, 39, 79, 120])
def test_ramp_up(epoch):
    model = toy_model(one_cfg(weight_schedule=dict(ramp='sigmoid', ramp_end=80)))
    batch = toy_batch()
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', 200)
    full = model(**batch, mode='loss')['loss_kd']
    hub.update_info('epoch', epoch)
    value = model(**batch, mode='loss')['loss_kd']
    ramp = math.exp(-5 * (1 - min(1, (epoch + 1) / 80)) ** 2)
    torch.testing.assert_close(value, ramp * full)


def test_the_last_stage_is_found():
    resnet = toy_model(one_cfg()).backbone
    image = torch.randn(1, 3, 16, 16)
    assert find_last_stage(resnet, image) == 'layer4'
    assert find_last_stage(WideResNet(depth=10, widen_factor=1), image) == 'groups.2'
    assert resnet.training
    assert not resnet._forward_hooks


def test_a_stage_that_ends_before_its_relu():
    """WideResNet's groups hand on pre-ReLU maps; heads read them behind it."""
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='frskd_mm.WideResNet', depth=10, widen_factor=1),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
    )
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=one_cfg())
    )
    model.init_weights()
    branch = model.distiller.branches[0]
    branch.stage.load_state_dict(model.backbone.groups[2].state_dict())
    branch.twin.head.load_state_dict(model.head.state_dict())
    losses = model(**toy_batch(), mode='loss')
    torch.testing.assert_close(losses['branch_2.loss'], losses['student.loss'])


def test_wrong_arguments():
    with pytest.raises(ValueError, match='num_branches of ONE must be >= 2, got 1'):
        toy_model(one_cfg(num_branches=1))
