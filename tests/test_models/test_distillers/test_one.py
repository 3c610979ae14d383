"""ONE: its terms against the equations, and whom they train."""

import math
from copy import deepcopy

import pytest
import reference
import torch
from contracts import Case, DistillerContract
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from torch.nn import Sequential, functional
from toys import terms_of, toy_batch, toy_model

from frskd_mm.models.backbones import WideResNet
from frskd_mm.models.distillers import ONE
from frskd_mm.models.distillers.one import find_last_stage
from frskd_mm.models.weight_schedule import WeightSchedule

PARTS = {
    'backbone.layer4': 'last_stage',
    'backbone.': 'trunk',
    'distiller.gate.': 'gate',
    'distiller.branches.0.': 'branch_2',
    'distiller.branches.1.': 'branch_3',
}
STUDENT = {'trunk', 'last_stage', 'head'}
EVERYTHING = STUDENT | {'gate', 'branch_2', 'branch_3'}


def one_cfg(**kwargs):
    return dict(
        type='frskd_mm.ONE',
        soft_label=dict(
            type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=1.0
        ),
        **kwargs,
    )


class TestONE(DistillerContract):
    component = ONE
    cases = {'three_branches': Case(dict(), None)}
    main = ['three_branches']
    parts = PARTS
    wrong_settings = [(dict(num_branches=1), 'num_branches of ONE must be >= 2, got 1')]

    def settings(self, case):
        return one_cfg(**case.settings)

    def expected(self, model, images, data_samples):
        labels = [sample.gt_label.item() for sample in data_samples]
        backbone, distiller = model.backbone, model.distiller
        x = backbone.relu(backbone.norm1(backbone.conv1(images)))
        for name in ('layer1', 'layer2', 'layer3'):
            x = getattr(backbone, name)(x)
        logits = [
            reference.classify(stage(x), head.fc.weight, head.fc.bias)
            for stage, head in (
                (backbone.layer4, model.head),
                *((branch.stage, branch.twin.head) for branch in distiller.branches),
            )
        ]
        gates = self.gates(distiller.gate, x.mean(dim=(2, 3)))
        ensemble = sum(gates[:, i : i + 1] * z for i, z in enumerate(logits))
        return {
            'student.loss': reference.cross_entropy(logits[0], labels),
            'branch_2.loss': reference.cross_entropy(logits[1], labels),
            'branch_3.loss': reference.cross_entropy(logits[2], labels),
            'ensemble.loss': reference.cross_entropy(ensemble, labels),
            'loss_kd': sum(reference.soft_label(z, ensemble, 3.0) for z in logits),
        }

    def gates(self, gate, pooled):
        """A linear layer, batch norm, ReLU and softmax over the branches."""
        norm = next(m for m in gate.modules() if isinstance(m, torch.nn.BatchNorm1d))
        scores = norm(pooled @ gate.fc.weight.T + gate.fc.bias)
        gates = torch.exp(reference.relu(scores))
        return gates / gates.sum(dim=1, keepdim=True)

    def reaches(self, case):
        return {
            'student.loss': STUDENT,
            'branch_2.loss': {'trunk', 'branch_2'},
            'branch_3.loss': {'trunk', 'branch_3'},
            'ensemble.loss': EVERYTHING,
            'loss_kd': EVERYTHING - {'gate'},
        }


def test_branches_start_differently_and_like_the_backbone():
    model = toy_model(one_cfg())
    stages = [
        model.backbone.layer4,
        *(branch.stage[0] for branch in model.distiller.branches),
    ]
    weights = [stage[0].conv2.weight for stage in stages]
    assert not torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    # He initialisation, as the backbone's init_cfg says.
    for weight in weights:
        assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.05)


def test_branches_of_a_backbone_without_init_cfg_start_differently():
    model = toy_model(one_cfg(), init_cfg=[])
    first, second = (branch.stage[0][0].conv2 for branch in model.distiller.branches)
    assert not torch.equal(first.weight, second.weight)


def test_number_of_branches():
    losses = toy_model(one_cfg(num_branches=2))(**toy_batch(), mode='loss')
    assert set(terms_of(losses)) == {
        'student.loss',
        'branch_2.loss',
        'ensemble.loss',
        'loss_kd',
    }


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


@pytest.mark.parametrize(('max_epochs', 'ramp_end'), [(300, 80), (200, 54), (24, 7)])
def test_the_method_ramps_up_in_any_training(repo, max_epochs, ramp_end):
    method = Config.fromfile(repo / 'configs' / '_base_' / 'methods' / 'one_cls.py')
    schedule = WeightSchedule(**method.distiller.weight_schedule)
    hub = MessageHub.get_current_instance()
    hub.update_info('max_epochs', max_epochs)
    for epoch in range(max_epochs):
        hub.update_info('epoch', epoch)
        ramp = math.exp(-5 * (1 - min(1, (epoch + 1) / ramp_end)) ** 2)
        assert schedule() == pytest.approx(ramp)


@MODELS.register_module()
class FunctionalWideResNet(WideResNet):
    """Activates its map by a function, which no module shows."""

    def forward(self, x):
        x = self.stem(x)
        for group in self.groups:
            x = group(x)
        return (functional.relu(x),)


WIDE_RESNET = dict(type='frskd_mm.WideResNet', depth=10, widen_factor=1)
CONV_NEXT = dict(type='ConvNeXt', arch='atto', gap_before_final_norm=False)
#: Backbone -> its config, its channels, its last stage and what follows that.
BACKBONES = {
    'plain blocks': (dict(type='ResNet', depth=18), 512, ['layer4']),
    # Bottlenecks call one ReLU several times.
    'bottlenecks': (dict(type='ResNet', depth=50), 2048, ['layer4']),
    'grouped': (dict(type='ResNeXt', depth=50), 2048, ['layer4']),
    'regnet': (dict(type='RegNet', arch='regnetx_400mf'), 384, ['layer4']),
    'followed by a relu': (WIDE_RESNET, 64, ['groups.2', 'activations.2']),
    'ends before its relu': (
        dict(WIDE_RESNET, type='FunctionalWideResNet'),
        64,
        ['groups.2', 'ReLU'],
    ),
    'ends without a relu': (dict(type='EfficientNet', arch='b0'), 1280, ['layers.6']),
    'followed by a norm': (CONV_NEXT, 320, ['stages.3', 'norm3']),
    'followed by a norm and a relu': (
        dict(type='DenseNet', arch='121'),
        1024,
        ['stages.3', 'transitions.3'],
    ),
}


def build_on(backbone, channels, **one):
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=10, in_channels=channels),
    )
    distiller = one_cfg(num_branches=2, **one)
    return MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )


@pytest.mark.parametrize('kind', BACKBONES)
def test_a_branch_is_the_students_last_stage_and_what_follows(kind):
    """With the student's weights, it gives the student's loss."""
    backbone, channels, names = BACKBONES[kind]
    model = build_on(backbone, channels)
    name, modules = find_last_stage(model.backbone, torch.randn(1, 3, 32, 32))
    of_backbone = {module: name for name, module in model.backbone.named_modules()}
    assert name == names[0]
    assert names == [of_backbone.get(m, type(m).__name__) for m in modules]

    branch = model.distiller.branches[0]
    branch.stage.load_state_dict(Sequential(*modules).state_dict())
    branch.twin.head.load_state_dict(model.head.state_dict())
    losses = model(**toy_batch(height=32, width=32), mode='loss')
    torch.testing.assert_close(losses['branch_2.loss'], losses['student.loss'])


def test_the_search_leaves_the_backbone_as_it_was():
    backbone = toy_model(one_cfg()).backbone
    before = deepcopy(backbone.state_dict())
    find_last_stage(backbone, torch.randn(1, 3, 16, 16))
    assert all(module.training for module in backbone.modules())
    for module in backbone.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])


def test_backbones_without_a_last_stage():
    """HRNet's last stage gives several maps at once."""
    with pytest.raises(ValueError, match='ONE cannot branch HRNet'):
        build_on(dict(type='HRNet', arch='w18'), 144)


def test_backbones_that_give_vectors():
    with pytest.raises(ValueError, match='Set gap_before_final_norm=False'):
        build_on(dict(type='ConvNeXt', arch='atto'), 320)


@pytest.mark.parametrize(
    ('stage', 'names'),
    [
        ('layer3', ['layer3', 'layer4']),
        ('layer4.1', ['layer4.1']),
        ('layer3.1', ['layer3.1', 'layer4']),
    ],
)
def test_the_stage_can_be_set(stage, names):
    model = build_on(dict(type='ResNet', depth=18), 512, stage=stage)
    branch, backbone = model.distiller.branches[0], model.backbone
    modules = Sequential(*(backbone.get_submodule(name) for name in names))
    branch.stage.load_state_dict(modules.state_dict())
    branch.twin.head.load_state_dict(model.head.state_dict())
    losses = model(**toy_batch(height=32, width=32), mode='loss')
    torch.testing.assert_close(losses['branch_2.loss'], losses['student.loss'])


def test_a_stage_that_does_not_lead_to_the_last_map_is_named():
    with pytest.raises(ValueError, match="cannot branch at 'layer5'"):
        build_on(dict(type='ResNet', depth=18), 512, stage='layer5')


def test_branches_follow_a_switched_loss():
    model = toy_model(one_cfg()).train()
    loss = dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, num_classes=10)
    model.head.loss_module = MODELS.build(loss)
    model(**toy_batch(), mode='loss')
    for branch in model.distiller.branches:
        assert branch.twin.head.loss_module.label_smooth_val == 0.1
