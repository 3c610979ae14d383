"""The student's own head scores the refined maps."""

import pytest
import torch
from toys import toy_batch, toy_distilled, toy_frskd_cfg, toy_model

WIDTH_1 = dict(type='frskd_mm.BiFPNc', width=1)


def classifier(**frskd):
    cfg = {**toy_frskd_cfg(shared_head=True, **frskd), 'neck': WIDTH_1}
    return toy_model(cfg), toy_batch()


def segmentor(**frskd):
    pytest.importorskip('mmseg')
    from test_segmentation.seg_toys import batch, build, student_cfg

    return build(student_cfg(), neck=WIDTH_1, shared_head=True, **frskd), batch()


def detector(**frskd):
    pytest.importorskip('mmdet')
    from test_detection.det_toys import distilled, family_batch

    return distilled('gfl', shared_head=True, **frskd), family_batch('gfl')


TASKS = {'classification': classifier, 'segmentation': segmentor, 'detection': detector}
in_all_tasks = pytest.mark.parametrize('build', TASKS.values(), ids=TASKS.keys())


@in_all_tasks
def test_there_is_no_second_head(build):
    model, _ = build()
    twin = [name for name in model.state_dict() if 'self_teacher.twin' in name]
    assert not twin
    assert any('self_teacher.neck' in name for name in model.state_dict())


@in_all_tasks
def test_the_self_teachers_loss_trains_the_students_head(build):
    model, data = build()
    losses = model.loss(data['inputs'], data['data_samples'])
    terms = {name: v for name, v in losses.items() if name.startswith('self_teacher')}
    model.parse_losses(terms)[0].backward()
    trained = {
        name.split('.')[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.any()
    }
    assert len(trained & {'head', 'decode_head', 'bbox_head'}) == 1
    assert 'distiller' in trained
    assert 'backbone' not in trained  # detach_inputs
    assert all(
        getattr(model.distiller.self_teacher.twin, name, None) is None
        for name in ('head', 'decode_head', 'bbox_head')
    )


@in_all_tasks
def test_a_neck_that_changes_nothing_gives_the_students_loss(build, monkeypatch):
    model, data = build()
    self_teacher = model.distiller.self_teacher
    monkeypatch.setattr(type(self_teacher), 'refine', lambda self, feats: tuple(feats))
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout2d):
            part.p = 0.0
    monkeypatch.setattr(
        type(self_teacher),
        'refine_with_preacts',
        lambda self, feats: (tuple(feats), tuple(feats)),
    )
    losses = model.loss(data['inputs'], data['data_samples'])
    ours = {k.replace('student.', ''): v for k, v in losses.items()}
    checked = 0
    for name, value in losses.items():
        own = ours.get(name.replace('self_teacher.', ''))
        if name.startswith('self_teacher.') and 'loss' in name and own is not None:
            torch.testing.assert_close(value, own)
            checked += 1
    assert checked


def test_it_predicts_with_the_students_head():
    model, data = classifier()
    model.eval()
    with torch.no_grad(), model.as_self_teacher():
        found = model.predict(data['inputs'], data['data_samples'])
        feats = model.backbone(data['inputs'])
        refined = model.distiller.self_teacher.refine(feats)
        expected = model.head((model.neck(refined[-1]),))
    scores = torch.stack([sample.pred_score for sample in found])
    torch.testing.assert_close(scores, expected.softmax(dim=1))


def test_the_parts_are_given_back_after_an_error():
    model, data = classifier()
    with pytest.raises(RuntimeError), model.distiller.self_teacher.borrowing(model):
        raise RuntimeError
    assert model.distiller.self_teacher.twin.head is None


def test_refined_maps_of_other_channels_are_refused():
    with pytest.raises(
        ValueError, match=r'shared_head.*in_channels: 64 -> 128.*width=1'
    ):
        toy_distilled(shared_head=True)


def test_sla_has_none():
    cfg = toy_frskd_cfg()
    cfg.update(type='frskd_mm.FRSKDSLA', neck=WIDTH_1, shared_head=True)
    with pytest.raises(ValueError, match='FRSKDSLA has no shared_head'):
        toy_model(cfg)
