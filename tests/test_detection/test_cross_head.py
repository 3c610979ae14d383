"""CrossKD: the twin's head on what the student had within its own."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from det_toys import distilled, family_batch, frskd_cfg, run_both, student_cfg

from frskd_mm.models.tasks.readers.cross_head import align

CUTS = ('retinanet', 'fcos', 'atss', 'gfl')


def cut_cfg(family, **distiller):
    """Two convolutions a branch, cut behind the first; norms, to see them skipped."""
    student = student_cfg(family)
    student['bbox_head']['stacked_convs'] = 2
    student['bbox_head']['norm_cfg'] = dict(type='BN')
    distiller = {'cross_head': 1, 'beta': 0.0, **distiller}
    distiller.setdefault('soft_label', dict(bbox_weight=1.0))
    return dict(
        type='frskd_mm.Distilled', student=student, distiller=frskd_cfg(**distiller)
    )


def build(family, **distiller):
    torch.manual_seed(0)
    model = MODELS.build(cut_cfg(family, **distiller))
    model.init_weights()
    return model


def aligned(student, teacher):
    """Channel by channel over images and places, as the authors' code has it."""
    result = torch.empty_like(student)
    for channel in range(student.shape[1]):
        ours, theirs = student[:, channel], teacher[:, channel]
        scaled = (ours - ours.mean()) / (ours.std() + 1e-6)
        result[:, channel] = scaled * theirs.std() + theirs.mean()
    return result


def by_hand(head, student_head, student_feats, teacher_feats):
    """What the rest of a head says of class and box, level by level."""
    predictors = {
        'cls': ('retina_cls', 'conv_cls', 'atss_cls', 'gfl_cls'),
        'reg': ('retina_reg', 'conv_reg', 'atss_reg', 'gfl_reg'),
    }
    outputs = {}
    for branch, names in predictors.items():
        first, second = getattr(head, f'{branch}_convs')
        own = getattr(student_head, f'{branch}_convs')[0]
        last = next(getattr(head, name) for name in names if hasattr(head, name))
        outputs[branch] = []
        for ours, theirs in zip(student_feats, teacher_feats):
            cut = aligned(own(ours), first(theirs))
            outputs[branch].append(last(second(F.relu(cut))))
    return outputs


@pytest.mark.parametrize('family', CUTS)
def test_the_twin_goes_on_from_the_students_maps(family):
    model = build(family)
    student, teacher = run_both(model, family_batch(family))
    twin_head = teacher.model.bbox_head
    found = model.distiller.task.readers(model)[0].crossed_maps(student, teacher)

    expected = by_hand(twin_head, model.bbox_head, student.feats, teacher.feats)
    for level, cls in enumerate(expected['cls']):
        rows = cls.permute(0, 2, 3, 1).reshape(len(cls), -1, found.cls[0].shape[-1])
        torch.testing.assert_close(found.cls[level], rows)
        if family in ('retinanet', 'gfl', 'atss'):  # FCOS scales and clamps besides
            reg = expected['reg'][level].permute(0, 2, 3, 1)
            torch.testing.assert_close(
                found.bbox[level], reg.reshape(found.bbox[level].shape)
            )


@pytest.mark.parametrize('family', CUTS)
def test_soft_labels_train_the_student_up_to_the_cut(family):
    model = build(family)
    student, teacher = run_both(model, family_batch(family))
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    samples = family_batch(family)['data_samples']
    model.distiller.compare_outputs(student, teacher, samples).backward()

    trained = {
        name
        for name, p in model.named_parameters()
        if p.grad is not None and p.grad.any()
    }
    assert not any(name.startswith('distiller.') for name in trained)
    head = {
        name.split('.')[1] + name.split('.')[2]
        for name in trained
        if 'bbox_head' in name
    }
    assert head == {'cls_convs0', 'reg_convs0'}
    assert any(name.startswith('backbone.') for name in trained)
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name]), name


def test_equal_heads_on_equal_maps_have_nothing_to_learn():
    model = build('gfl')
    model.distiller.self_teacher.twin.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k.startswith('bbox_head.')}
    )
    student, _ = run_both(model, family_batch('gfl'))
    same = model.distiller.run_twin(
        model.distiller.self_teacher.twin,
        student.feats,
        family_batch('gfl')['data_samples'],
        student,
    )
    loss = model.distiller.compare_outputs(
        student, same, family_batch('gfl')['data_samples']
    )
    assert loss < 1e-8


def test_align_ignores_the_scale_of_the_student():
    student, teacher = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    torch.testing.assert_close(
        align(7.0 * student + 3.0, teacher), align(student, teacher)
    )
    torch.testing.assert_close(align(teacher, teacher), teacher)


def test_align_gives_a_single_place_the_teachers_value():
    """P7 of a batch of one, whose standard deviation is NaN in the source."""
    student = torch.randn(1, 3, 1, 1, requires_grad=True)
    teacher = torch.randn(1, 3, 1, 1)
    found = align(student, teacher)
    torch.testing.assert_close(found, teacher)
    found.sum().backward()
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_a_pretrained_teacher_goes_on_from_the_students_maps(tmp_path):
    cfg = cut_cfg('gfl')
    teacher = MODELS.build(cfg['student'])
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    cfg['distiller'] = dict(
        type='frskd_mm.PretrainedTeacher',
        soft_label=dict(type='frskd_mm.DetSoftLabelLoss'),
        teacher=cfg['student'],
        checkpoint=str(tmp_path / 'teacher.pth'),
        cross_head=1,
    )
    model = MODELS.build(cfg)
    model.init_weights()
    data = family_batch('gfl')
    losses = model.loss(data['inputs'], data['data_samples'])
    losses['loss_kd'].backward()
    assert losses['loss_kd'] > 0
    assert model.bbox_head.cls_convs[0].conv.weight.grad.any()
    assert model.bbox_head.cls_convs[1].conv.weight.grad is None


class TestRefusals:
    def test_heads_without_common_branches(self):
        with pytest.raises(
            TypeError, match='RTMDet.* cannot be cut.*Remove cross_head'
        ):
            distilled('rtmdet', cross_head=1)

    def test_two_stage_detectors(self):
        with pytest.raises(TypeError, match='cannot be cut.*one-stage detector'):
            distilled('faster_rcnn', cross_head=1)

    def test_a_cut_behind_more_convolutions_than_there_are(self):
        with pytest.raises(ValueError, match='cross_head=3.* have 2 convolutions'):
            build('gfl', cross_head=3)

    def test_no_cut(self):
        with pytest.raises(ValueError, match='cross_head'):
            build('gfl', cross_head=0)
