"""What hooks exchange in the student reaches the self-teacher."""

from types import SimpleNamespace

import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from toys import toy_batch, toy_distilled, toy_frskd_cfg, toy_student_cfg


def switch_loss(model, loss):
    """Switch the loss as mmpretrain's hook does in a training."""
    from mmpretrain.engine.hooks import SwitchRecipeHook

    hook = SwitchRecipeHook([dict(action_epoch=1, loss=loss)])
    logger = MMLogger.get_current_instance()
    runner = SimpleNamespace(model=model, epoch=0, logger=logger)
    hook.before_train_epoch(runner)


LABEL_SMOOTHING = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=10)


def test_a_switched_loss_reaches_the_self_teacher():
    model, batch = toy_distilled().train(), toy_batch()
    twin = model.distiller.self_teacher.twin
    first = twin.head.loss_module
    model(**batch, mode='loss')
    assert twin.head.loss_module is first
    switch_loss(model, LABEL_SMOOTHING)
    model(**batch, mode='loss')
    switched = twin.head.loss_module
    assert type(switched) is type(model.head.loss_module) is not type(first)
    assert switched is not model.head.loss_module
    assert switched.label_smooth_val == 0.1
    model(**batch, mode='loss')
    assert twin.head.loss_module is switched  # copied once
    switch_loss(model, dict(LABEL_SMOOTHING, label_smooth_val=0.3))
    model(**batch, mode='loss')
    assert twin.head.loss_module.label_smooth_val == 0.3


def test_the_self_teachers_own_loss_stays():
    own = dict(head=dict(loss=dict(LABEL_SMOOTHING, label_smooth_val=0.2)))
    cfg = dict(student=toy_student_cfg(), distiller=toy_frskd_cfg(twin=own))
    cfg['distiller']['twin']['head']['loss']['_delete_'] = True
    model = MODELS.build(dict(type='frskd_mm.Distilled', **cfg)).train()
    switch_loss(model, LABEL_SMOOTHING)
    model(**toy_batch(), mode='loss')
    assert model.distiller.self_teacher.twin.head.loss_module.label_smooth_val == 0.2


def test_margins_reach_the_self_teacher():
    student = toy_student_cfg()
    student['head'] = dict(type='ArcFaceClsHead', num_classes=10, in_channels=64)
    cfg = dict(student=student, distiller=toy_frskd_cfg())
    model = MODELS.build(dict(type='frskd_mm.Distilled', **cfg))
    model.head.set_margins([0.1 + 0.01 * i for i in range(10)])
    self_teacher = model.distiller.self_teacher
    assert not torch.equal(self_teacher.twin.head.margins, model.head.margins)
    model.distiller.before_forward(model)
    for name in ('margins', 'sinm_m'):
        ours, theirs = (getattr(m.head, name) for m in (model, self_teacher.twin))
        assert torch.equal(ours, theirs)


def test_a_switch_of_class_weights_reaches_the_self_teacher():
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(),
            distiller=toy_frskd_cfg(),
        )
    ).train()
    weights = [0.5] * 5 + [2.0] * 5
    switch_loss(model, dict(type='CrossEntropyLoss', class_weight=weights))
    model(**toy_batch(), mode='loss')
    twin = model.distiller.self_teacher.twin
    assert twin.head.loss_module.class_weight == weights
