"""What teachers of unusual detectors say, and what is refused in the first step."""

import pytest
import torch
from det_toys import (
    NUM_CLASSES,
    batch,
    distilled,
    family_batch,
    frskd_cfg,
    student_cfg,
    total_loss,
)
from mmengine.registry import MODELS

from frskd_mm.models.tasks import DetectionTask
from frskd_mm.utils.recorder import Recorder

#: Whose classes lie in no bbox_head of their own.
ELSEWHERE = ['sparse_rcnn', 'queryinst', 'solo', 'solov2', 'mask2former']


@pytest.mark.parametrize('family', ['fcos', 'solo', 'decoupled_solo', 'solov2'])
def test_a_pretrained_teacher_that_is_the_student_agrees_with_it(family, tmp_path):
    """In eval mode FCOS scales its boxes, and SOLO returns what is left by NMS."""
    settings = dict(type='frskd_mm.DetSoftLabelLoss', foreground=None)
    if family == 'fcos':
        settings['bbox_weight'] = 1.0
    model = taught(family, tmp_path, soft_label=settings)
    losses = model.loss(**family_batch(family))
    torch.testing.assert_close(losses['loss_kd'], torch.tensor(0.0), atol=1e-4, rtol=0)
    teacher = model.distiller.teacher
    assert not any(module.training for module in teacher.modules())


def test_across_heads_it_agrees_with_itself(tmp_path):
    """In eval mode FCOS scales its boxes by the stride, also of the student's maps."""
    soft_label = dict(
        type='frskd_mm.DetSoftLabelLoss', foreground=None, bbox_weight=1.0
    )
    model = taught(
        'fcos', tmp_path, soft_label=soft_label, cross_head=1, norm_on_bbox=True
    )
    losses = model.loss(**family_batch('fcos'))
    torch.testing.assert_close(losses['loss_kd'], torch.tensor(0.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [('retinanet', 'faster_rcnn'), ('faster_rcnn', 'cascade_rcnn')],
)
def test_unlike_detectors_compare_features(student, teacher, tmp_path):
    settings = dict(
        teacher=student_cfg(teacher), feature_loss=dict(type='frskd_mm.PKDLoss')
    )
    nothing = dict(type='frskd_mm.DetSoftLabelLoss', loss_weight=0.0)
    model = taught(student, tmp_path, soft_label=nothing, **settings)
    losses = model.loss(**family_batch(student))
    assert losses['loss_pkd'] > 0


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [('retinanet', 'faster_rcnn'), ('cascade_rcnn', 'faster_rcnn')],
)
def test_heads_that_do_not_pair_are_refused(student, teacher, tmp_path):
    with pytest.raises(TypeError, match='features alone: soft_label.loss_weight=0'):
        taught(student, tmp_path, teacher=student_cfg(teacher))


def taught(family, folder, **settings):
    """Build a student beside a pretrained teacher with its own weights."""
    torch.manual_seed(0)
    student = student_cfg(family)
    if 'norm_on_bbox' in settings:
        student['bbox_head']['norm_on_bbox'] = settings.pop('norm_on_bbox')
    plain = MODELS.build(student)
    plain.init_weights()
    path = str(folder / 'teacher.pth')
    teacher = plain
    if 'teacher' in settings:  # of another kind
        teacher = MODELS.build(settings['teacher'])
    torch.save(teacher.state_dict(), path)
    distiller = dict(
        type='frskd_mm.PretrainedTeacher',
        checkpoint=path,
        **{
            'teacher': student,
            'soft_label': dict(type='frskd_mm.DetSoftLabelLoss'),
            **settings,
        },
    )
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )
    model.init_weights()
    model.load_state_dict(plain.state_dict(), strict=False)
    return model.train()


@pytest.mark.parametrize(
    ('family', 'term', 'message'),
    [
        (
            'mask2former',
            dict(soft_label=dict(type='frskd_mm.ChannelSoftLabelLoss')),
            'ChannelSoftLabelLoss compares maps of logits',
        ),
        (
            'deformable_detr',
            dict(feature_loss=dict(foreground='confidence')),
            'needs a dense head with one class map',
        ),
    ],
)
def test_a_term_that_acts_later_is_tried_in_the_first_step(family, term, message):
    soft_label = term.get('soft_label')
    cfg = frskd_cfg(**({} if soft_label else term))
    if soft_label:
        cfg['soft_label'] = soft_label
    cfg['weight_schedule'] = dict(begin=1)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student_cfg(family), distiller=cfg)
    )
    model.init_weights()
    with pytest.raises(ValueError, match=message):
        model.train().loss(**family_batch(family))


@pytest.mark.parametrize('pretrained', [False, True], ids=['frskd', 'kd'])
def test_the_trial_of_a_term_changes_no_training(pretrained, tmp_path):
    """A two-stage teacher draws proposals."""
    found = []
    for tried in (set(), {'soft_label', 'feature_loss'}):
        torch.manual_seed(0)
        if pretrained:
            model = taught('faster_rcnn', tmp_path, weight_schedule=dict(begin=1))
        else:
            model = distilled('retinanet', weight_schedule=dict(begin=1)).train()
        model.distiller._tried |= tried
        data = batch()
        torch.manual_seed(1)
        total, logs = total_loss(model, data)
        total.backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        found.append((logs, grads, torch.rand(1)))
    (logs, grads, drawn), (expected, others, wanted) = found
    assert logs == expected
    assert 'loss_kd' not in logs
    assert torch.equal(drawn, wanted)
    for grad, other in zip(grads, others):
        assert torch.equal(grad, other)


@pytest.mark.parametrize('family', ELSEWHERE)
def test_classes_are_found_wherever_they_are(family):
    student, task = MODELS.build(student_cfg(family)), DetectionTask()
    assert task.num_drawn_maps(student, identity=True) == NUM_CLASSES + 5
    assert task.num_box_classes(student) == NUM_CLASSES
    samples = family_batch(family)['data_samples']
    samples[0].gt_instances.labels[0] = 7
    with pytest.raises(ValueError, match=r'are out of range for num_classes=3'):
        task.check_labels(student, samples)


def test_a_neck_takes_maps_from_fine_to_coarse_whatever_the_source_returns():
    """YOLOv3 returns the coarsest first."""
    model = distilled('yolov3').train()
    self_teacher = model.distiller.self_teacher
    data = family_batch('yolov3')
    feats = model.extract_feat(data['inputs'])
    sizes = [feat.shape[-1] for feat in feats]
    assert sizes == sorted(sizes)
    with Recorder({'refined': (self_teacher.neck, 'forward')}) as record:
        refined = self_teacher.refine(feats)
    inside = [feat.shape[-1] for feat in record.last('refined')]
    assert inside == sorted(sizes, reverse=True)
    assert [feat.shape for feat in refined] == [feat.shape for feat in feats]
    total, _ = total_loss(model, data)
    total.backward()
    assert torch.isfinite(total)


def test_mode_switches_reach_the_branches_of_byot():
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=student_cfg('yolox'),
            distiller=dict(
                type='frskd_mm.BYOT', soft_label=dict(type='frskd_mm.DetSoftLabelLoss')
            ),
        )
    ).train()
    assert 'branch_0.loss_l1' not in model.loss(**batch())
    model.bbox_head.use_l1 = True  # as YOLOXModeSwitchHook does
    losses = model.loss(**batch())
    assert losses['branch_0.loss_l1'] > 0
