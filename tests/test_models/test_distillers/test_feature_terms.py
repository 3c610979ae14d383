"""FRSKD with FitNet and overhaul as its feature term."""

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
from toys import toy_batch, toy_frskd_cfg

from frskd_mm.models.losses import FitNetLoss
from frskd_mm.models.losses.feature_loss import build_feature_loss

TERMS = {'FitNetLoss': 'loss_fitnet', 'OverhaulLoss': 'loss_overhaul'}
PARTS = {
    'backbone.': 'backbone',
    'head.': 'student_head',
    'distiller.self_teacher.': 'self_teacher',
    'distiller.feature_loss.': 'adapters',
}


def toy_frskd(loss, neck='BiFPNc', **feature_loss):
    cfg = toy_frskd_cfg()
    cfg['neck'] = dict(type=f'frskd_mm.{neck}')
    cfg['feature_loss'] = dict(type=f'frskd_mm.{loss}', **feature_loss)
    return toy_model(cfg)


@pytest.mark.parametrize('loss', TERMS)
def test_each_term_trains_only_its_parts(loss):
    model = toy_frskd(loss)
    assert trained_parts(model, TERMS[loss], PARTS) == {'backbone', 'adapters'}
    assert trained_parts(model, 'self_teacher.loss', PARTS) == {'self_teacher'}


@pytest.mark.parametrize('loss', TERMS)
def test_every_parameter_is_trained_and_the_student_is_plain(loss):
    model = toy_frskd(loss)
    assert_all_parameters_are_trained(model)
    assert_leaves_a_plain_student(model)


@pytest.mark.parametrize('loss', TERMS)
def test_the_other_terms_do_not_depend_on_the_feature_term(loss):
    """Recording the maps before their ReLU leaves the model as it was."""
    batch = toy_batch()
    plain, other = toy_frskd('AttentionTransferLoss'), toy_frskd(loss)
    weights = plain.state_dict()
    other.load_state_dict({**other.state_dict(), **weights})
    expected, losses = plain(**batch, mode='loss'), other(**batch, mode='loss')
    for name in ('student.loss', 'self_teacher.loss', 'loss_kd'):
        assert torch.equal(losses[name], expected[name])


@pytest.mark.parametrize('neck', ['BiFPNc', 'BiFPN'])
def test_fitnet_compares_the_maps_behind_their_relu(neck):
    model, batch = toy_frskd('FitNetLoss', neck=neck), toy_batch()
    value = model(**batch, mode='loss')['loss_fitnet']
    feats = model.backbone(batch['inputs'])
    refined = reference.bifpn(
        feats, reference.neck_params(model.distiller.self_teacher.neck)
    )
    expected = 0
    for adapt, feat, target in zip(
        model.distiller.feature_loss.adapters, feats, refined
    ):
        expected = expected + 100.0 * ((adapt(feat) - target) ** 2).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('neck', ['BiFPNc', 'BiFPN'])
def test_overhaul_compares_the_maps_before_their_relu(neck):
    model, batch = toy_frskd('OverhaulLoss', neck=neck), toy_batch()
    value = model(**batch, mode='loss')['loss_overhaul']

    # The student's maps before the last ReLU of each stage.
    preacts, backbone = [], model.backbone
    x = backbone.relu(backbone.norm1(backbone.conv1(batch['inputs'])))
    for name in backbone.res_layers:
        *blocks, last = getattr(backbone, name)
        for block in blocks:
            x = block(x)
        y = last.norm2(last.conv2(last.relu(last.norm1(last.conv1(x)))))
        preacts.append(y + x)
        x = (y + x).relu()
    (params,) = reference.neck_params(model.distiller.self_teacher.neck)
    targets = reference.bifpn_layer(
        [preact.relu() for preact in preacts], params, 'nearest', True
    )
    expected, margin = 0, torch.tensor(-math.sqrt(2 / math.pi))
    for level, (adapt, preact, target) in enumerate(
        zip(model.distiller.feature_loss.adapters, preacts, targets)
    ):
        source, target = adapt(preact), torch.maximum(target, margin)
        free = (source <= target) & (target <= 0)
        distance = torch.where(free, 0.0, (source - target) ** 2).sum()
        expected = expected + 1e-3 * distance / len(source) / 2 ** (3 - level)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_without_weight_the_adapters_are_frozen_and_nothing_is_computed():
    model = toy_frskd('FitNetLoss', loss_weight=0.0)
    adapters = list(model.distiller.feature_loss.parameters())
    assert adapters
    assert not any(param.requires_grad for param in adapters)
    assert 'loss_fitnet' not in model(**toy_batch(), mode='loss')


def test_while_the_schedule_is_zero_the_adapters_take_part():
    cfg = toy_frskd_cfg(weight_schedule=dict(begin=3))
    cfg['feature_loss'] = dict(type='frskd_mm.OverhaulLoss')
    model = toy_model(cfg)
    assert_all_parameters_are_trained(model)
    assert model(**toy_batch(), mode='loss')['loss_overhaul'].item() == 0


def test_channels_set_by_hand_stay():
    loss = build_feature_loss(
        dict(type='frskd_mm.FitNetLoss', out_channels=[5]), [3], [4]
    )
    assert loss.adapters[0][0].weight.shape == (5, 3, 1, 1)


def test_a_class_instead_of_its_name():
    loss = build_feature_loss(dict(type=FitNetLoss), [3], [4])
    assert loss.adapters[0][0].weight.shape == (4, 3, 1, 1)


def test_unknown_feature_loss():
    with pytest.raises(KeyError, match='NoSuchLoss'):
        toy_frskd('NoSuchLoss')
