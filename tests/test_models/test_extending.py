"""Parts from outside: each is one registered class."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS as ROOT
from mmengine.registry import Registry
from toys import toy_batch, toy_distilled, toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.distillers import BaseDistiller
from frskd_mm.models.losses import FeatureLoss, PixelSoftLabelLoss, SoftLabelLoss

MODELS = Registry('model', parent=ROOT, scope='elsewhere')


@MODELS.register_module()
class CosineLoss(FeatureLoss):
    """Compares pooled maps through an adapter, with arguments of its own."""

    loss_name = 'loss_cosine'

    def __init__(self, margin: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin = margin
        self.adapters = torch.nn.ModuleList(
            torch.nn.Linear(c, d)
            for c, d in zip(kwargs['in_channels'], kwargs['out_channels'])
        )

    def level_loss(self, level, student, teacher, weight):
        ours = self.adapters[level](student.mean(dim=(2, 3)))
        distance = 1 - F.cosine_similarity(ours, teacher.mean(dim=(2, 3)))
        return (distance - self.margin).clamp(min=0).mean()


@MODELS.register_module()
class PearsonLoss(SoftLabelLoss):
    """Compares how the classes of an image are related, not place by place."""

    def head_loss(self, head):
        p, q = (
            torch.softmax(logits / self.temperature, dim=1)
            for logits in (head.student_cls, head.teacher_cls.detach())
        )
        p, q = (x - x.mean(dim=1, keepdim=True) for x in (p, q))
        return 1 - F.cosine_similarity(p, q, dim=1).mean()


@MODELS.register_module()
class OwnForward(BaseDistiller):
    """Never runs the student's own loss."""

    def __init__(self, student, student_cfg):
        super().__init__(student)

    def loss(self, student, inputs, data_samples):
        return {'loss_norm': student(inputs, mode='tensor').square().mean()}


def build(**distiller):
    model = ROOT.build(
        dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(),
            distiller={**toy_frskd_cfg(), **distiller},
        )
    )
    model.init_weights()
    return model.train()


def without_gradient(model):
    return {
        name
        for name, param in model.named_parameters()
        if param.requires_grad and param.grad is None
    }


def step(model):
    losses = model(**toy_batch(), mode='loss')
    model.parse_losses(losses)[0].backward()
    return losses


def test_a_feature_loss_with_kwargs_gets_what_the_distiller_infers():
    loss = dict(type='elsewhere.CosineLoss', margin=-0.5, loss_weight=3.0)
    model = build(feature_loss=loss)
    adapters = model.distiller.feature_loss.adapters
    assert [a.weight.shape for a in adapters] == [(2 * c, c) for c in (8, 16, 32, 64)]
    assert step(model)['loss_cosine'] > 0
    assert not without_gradient(model)


def test_what_is_no_feature_loss_is_refused_by_name():
    with pytest.raises(TypeError, match='SoftLabelLoss cannot be the feature_loss'):
        build(feature_loss=dict(type='frskd_mm.SoftLabelLoss'))


def test_a_soft_label_loss_that_looks_across_classes():
    model = build(soft_label=dict(type='elsewhere.PearsonLoss', loss_weight=2.0))
    torch.nn.init.normal_(model.head.fc.weight)
    assert 0 < step(model)['loss_kd'] < 4


def test_any_registered_neck_refines():
    pytest.importorskip('mmdet')
    neck = dict(type='mmdet.FPN', out_channels=12, num_outs=4)
    model = build(neck=neck)
    assert model.distiller.self_teacher.out_channels == [12] * 4
    assert model.distiller.self_teacher.twin.head.fc.weight.shape == (10, 12)
    assert step(model)['loss_at'] > 0
    assert not without_gradient(model)
    # The head reads the coarsest level alone.
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    neck = 'distiller.self_teacher.neck'
    assert f'{neck}.fpn_convs.3.conv.weight' in trained
    assert f'{neck}.fpn_convs.2.conv.weight' not in trained


def test_what_no_head_reads_of_a_foreign_neck_is_frozen():
    pytest.importorskip('mmdet')
    pytest.importorskip('mmseg')
    student = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmseg.ResNet', depth=18, base_channels=8),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=16, in_index=1, channels=8, num_classes=3
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    distiller = toy_frskd_cfg()
    distiller['neck'] = dict(type='mmdet.FPN', out_channels=12, num_outs=4)
    model = ROOT.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )
    neck = model.distiller.self_teacher.neck
    frozen = {
        name for name, param in neck.named_parameters() if not param.requires_grad
    }
    unread = {f'fpn_convs.{level}' for level in (0, 2, 3)}
    assert {name.rsplit('.', 2)[0] for name in frozen} == unread | {'lateral_convs.0'}


def test_a_neck_that_changes_sizes_is_refused():
    pytest.importorskip('mmdet')
    neck = dict(type='mmdet.FPN', out_channels=12, num_outs=5)
    with pytest.raises(ValueError, match='num_outs'):
        build(neck=neck)


def test_a_distiller_need_not_run_the_students_loss():
    cfg = dict(type='elsewhere.OwnForward')
    model = ROOT.build(
        dict(type='frskd_mm.Distilled', student=toy_student_cfg(), distiller=cfg)
    )
    assert set(model(**toy_batch(), mode='loss')) == {'loss_norm'}


def test_the_self_teachers_neck_is_asked_what_it_gives():
    neck = toy_distilled().distiller.self_teacher.neck
    assert neck.settings_for(levels_read=[0, 2]) == dict(last_bottom_up=2)


@pytest.mark.parametrize('name', ['SoftLabelLoss', 'PixelSoftLabelLoss'])
def test_options_act_in_a_loss_that_is_called_by_hand(name):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0] = 255  # the first image does not count
    kind = dict(SoftLabelLoss=SoftLabelLoss, PixelSoftLabelLoss=PixelSoftLabelLoss)
    loss = kind[name](temperature=1.0)
    torch.testing.assert_close(
        loss(student, teacher, labels=labels), loss(student[1:], teacher[1:])
    )
    everywhere = kind[name](temperature=1.0, mask_ignored=False)
    torch.testing.assert_close(
        everywhere(student, teacher, labels=labels), loss(student, teacher)
    )
    larger = kind[name](temperature=1.0, upsample=True, mask_ignored=False)
    resized = [
        F.interpolate(z, size=(8, 8), mode='bilinear') for z in (student, teacher)
    ]
    torch.testing.assert_close(larger(student, teacher, labels=labels), loss(*resized))
    with pytest.raises(ValueError, match='upsample=True'):
        larger(student, teacher)
