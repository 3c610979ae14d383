"""FRSKD with FitNet and overhaul as its feature term."""

import math

import pytest
import reference
import torch
from contracts import Case
from test_models.test_distillers.test_frskd import FRSKDContract
from toys import toy_batch, toy_frskd_cfg, toy_model

from frskd_mm.models.losses import FitNetLoss
from frskd_mm.models.losses.feature_loss import build_feature_loss

TERMS = {'FitNetLoss': 'loss_fitnet', 'OverhaulLoss': 'loss_overhaul'}


def toy_frskd(loss, neck='BiFPNc', **feature_loss):
    cfg = toy_frskd_cfg()
    cfg['neck'] = dict(type=f'frskd_mm.{neck}')
    cfg['feature_loss'] = dict(type=f'frskd_mm.{loss}', **feature_loss)
    return toy_model(cfg)


class FeatureTermContract(FRSKDContract):
    feature_reaches = frozenset({'backbone', 'adapters'})
    test_wrong_settings_are_refused = None


def cases_of(loss):
    """With both necks; after the name of the term."""
    return {
        neck: Case(
            dict(
                toy_frskd_cfg(),
                neck=dict(type=f'frskd_mm.{neck}'),
                feature_loss=dict(type=f'frskd_mm.{loss}'),
            ),
            TERMS[loss],
        )
        for neck in ('BiFPNc', 'BiFPN')
    }


class TestFitNetTerm(FeatureTermContract):
    """The maps behind their ReLU."""

    cases = cases_of('FitNetLoss')
    main = ['BiFPNc']
    graphs = 1

    def feature_term(self, model, feats, refined):
        adapters = model.distiller.feature_loss.adapters
        return 'loss_fitnet', sum(
            ((adapt(feat) - target.detach()) ** 2).mean()
            for adapt, feat, target in zip(adapters, feats, refined)
        )


class TestOverhaulTerm(FeatureTermContract):
    """The maps before their ReLU."""

    cases = cases_of('OverhaulLoss')
    main = ['BiFPNc']

    def feature_term(self, model, feats, refined):
        with torch.no_grad():  # the refined maps before their ReLU
            (params,) = reference.neck_params(model.distiller.self_teacher.neck)
            targets = reference.bifpn_layer(feats, params, 'nearest', True)
        total, margin = 0, torch.tensor(-math.sqrt(2 / math.pi)).to(feats[0])
        adapters = model.distiller.feature_loss.adapters
        for level, (adapt, preact, target) in enumerate(
            zip(adapters, self.preacts, targets)
        ):
            source, target = adapt(preact), torch.maximum(target, margin)
            free = (source <= target) & (target <= 0)
            distance = torch.where(free, 0.0, (source - target) ** 2).sum()
            total = total + distance / len(source) / 2 ** (3 - level)
        return 'loss_overhaul', total

    def student_feats(self, model, images):
        """Keep the maps before the last ReLU of each stage."""
        self.preacts, backbone = [], model.backbone
        x = backbone.relu(backbone.norm1(backbone.conv1(images)))
        for name in backbone.res_layers:
            *blocks, last = getattr(backbone, name)
            for block in blocks:
                x = block(x)
            y = last.norm2(last.conv2(last.relu(last.norm1(last.conv1(x)))))
            self.preacts.append(y + x)
            x = (y + x).relu()
        return [preact.relu() for preact in self.preacts]


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
    losses = model(**toy_batch(), mode='loss')
    assert losses['loss_overhaul'].item() == 0
    model.parse_losses(losses)[0].backward()
    assert all(param.grad is not None for param in model.parameters())


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
