"""A self-teacher that was trained before, frozen, as pretrained teacher."""

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from contracts import trained_parts
from test_models.test_distillers.test_dense_prediction import (
    TASKS,
    batch_of,
    student_of,
)
from toys import terms_of

SOFT_LABELS = {
    'segmentation': dict(type='frskd_mm.ChannelSoftLabelLoss', loss_weight=3.0),
    'retinanet': dict(type='frskd_mm.DetSoftLabelLoss'),
    'faster_rcnn': dict(type='frskd_mm.DetSoftLabelLoss'),
}
every_task = pytest.mark.parametrize('task', TASKS)


def guided_cfg(task, **frskd):
    return dict(
        type='frskd_mm.Distilled',
        student=student_of(task),
        distiller=dict(
            type='frskd_mm.FRSKD',
            neck=dict(type='frskd_mm.BiFPNc', width=1, norm_cfg=dict(type='BN')),
            soft_label=SOFT_LABELS[task],
            feature_loss=dict(type='frskd_mm.AttentionTransferLoss', loss_weight=0.0),
            guidance=dict(drop=0.0, jitter=0.0),
            **frskd,
        ),
    )


@pytest.fixture
def taught(tmp_path):
    """Builds a student, the frozen teacher that it has, and a batch."""

    def build(task, frskd=None, **settings):
        torch.manual_seed(0)
        cfg = guided_cfg(task, **(frskd or {}))
        teacher = MODELS.build(cfg)
        teacher.init_weights()
        for embedding in teacher.distiller.guidance.embeddings:
            torch.nn.init.normal_(embedding[2].weight)
        path = tmp_path / 'teacher.pth'
        torch.save(dict(state_dict=teacher.state_dict()), path)
        distiller = dict(
            type='frskd_mm.PretrainedTeacher',
            teacher=cfg,
            checkpoint=str(path),
            self_teacher=True,
            soft_label=SOFT_LABELS[task],
            **settings,
        )
        model = MODELS.build(
            dict(
                type='frskd_mm.Distilled', student=student_of(task), distiller=distiller
            )
        )
        model.init_weights()
        return model, teacher, batch_of(task)

    return build


@every_task
def test_it_teaches_the_student_and_is_not_trained(task, taught):
    model, _, data = taught(task)
    losses = model.loss(data['inputs'], data['data_samples'])
    assert losses['loss_kd'] > 0
    total, _ = model.parse_losses(terms_of(losses))
    total.backward()
    assert not [name for name in model.state_dict() if name.startswith('distiller')]
    assert all(p.grad is None for p in model.distiller.teacher.parameters())
    losses = model.loss(data['inputs'], data['data_samples'])
    assert trained_parts(model, losses['loss_kd']) >= {'backbone'}


@every_task
def test_it_says_what_the_trained_one_said(task, taught):
    model, teacher, data = taught(task)
    own = model.distiller.run_student(model, **data)
    found = model.distiller.run_teacher(data['inputs'], data['data_samples'], own)
    teacher.eval()
    with torch.no_grad():
        below = teacher.distiller.task.run(
            teacher,
            teacher.host_loss,
            data['inputs'],
            data['data_samples'],
            teacher.distiller.levels,
            follow=own,
        )
        expected = teacher.distiller.run_self_teacher(
            teacher, below, data['data_samples']
        )
    for ours, theirs in zip(found.feats, expected.feats):
        torch.testing.assert_close(ours, theirs)


def test_it_sees_the_labels(taught):
    model, _, data = taught('segmentation')
    own = model.distiller.run_student(model, **data)
    before = model.distiller.run_teacher(data['inputs'], data['data_samples'], own)
    for sample in data['data_samples']:
        sample.gt_sem_seg.data = (sample.gt_sem_seg.data + 1) % 5
    after = model.distiller.run_teacher(data['inputs'], data['data_samples'], own)
    assert not torch.equal(before.feats[0], after.feats[0])


@pytest.mark.parametrize('shared_head', [False, True])
@pytest.mark.parametrize('settings', [{}, {'cross_head': 1}])
def test_it_may_share_a_head_and_be_asked_across_heads(shared_head, settings, taught):
    model, _, data = taught('retinanet', dict(shared_head=shared_head), **settings)
    for name, parameter in model.distiller.teacher.named_parameters():
        if name.endswith('retina_cls.weight'):  # else the scores are all but constant
            torch.nn.init.normal_(parameter)
    losses = model.loss(data['inputs'], data['data_samples'])
    assert losses['loss_kd'] > 0


def test_its_refined_maps_can_be_compared(taught):
    term = dict(type='frskd_mm.PKDLoss', loss_weight=1.0)
    model, _, data = taught('segmentation', feature_loss=term)
    losses = model.loss(data['inputs'], data['data_samples'])
    assert losses['loss_pkd'] > 0


def test_overhaul_is_refused(taught):
    term = dict(type='frskd_mm.OverhaulLoss', margin='batch')
    with pytest.raises(ValueError, match='OverhaulLoss .* frozen self-teacher'):
        taught('segmentation', feature_loss=term)


def test_a_plain_teacher_has_none(tmp_path):
    distiller = dict(
        type='frskd_mm.PretrainedTeacher',
        teacher=student_of('segmentation'),
        checkpoint=str(tmp_path / 'none.pth'),
        self_teacher=True,
        soft_label=SOFT_LABELS['segmentation'],
    )
    student = student_of('segmentation')
    with pytest.raises(ValueError, match='distilled by FRSKD.*EncoderDecoder'):
        MODELS.build(
            dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
        )
