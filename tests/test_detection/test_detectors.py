"""FRSKD on every family of detectors: structure, gradients, edge cases."""

from copy import deepcopy

import pytest
import torch
from det_toys import (
    FAMILIES,
    ONE_STAGE,
    TWO_STAGE,
    batch,
    distilled,
    family_batch,
    frskd_cfg,
    run_both,
    student_cfg,
    total_loss,
)
from mmengine.config import ConfigDict
from mmengine.registry import MODELS

from frskd_mm.models.losses import DetSoftLabelLoss
from frskd_mm.models.tasks import DetectionTask
from frskd_mm.models.tasks.base import RewiringError

PARTS = {
    'backbone': 'backbone.',
    'neck': 'neck.',
    'self_teacher': 'distiller.self_teacher.',
}


def parts_with_gradient(model):
    """Names of the model's parts with a gradient that is not zero."""
    reached = set()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().sum() > 0:
            part = [p for p, prefix in PARTS.items() if name.startswith(prefix)]
            reached.add(part[0] if part else 'student_head')
    return reached


def without_gradient(model):
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    }


@pytest.mark.parametrize('family', FAMILIES)
def test_one_step_reaches_every_parameter_that_upstream_reaches(family):
    data = family_batch(family)
    plain = MODELS.build(student_cfg(family))
    plain.init_weights()
    total_loss(plain, deepcopy(data))[0].backward()

    model = distilled(family).train()
    total, logs = total_loss(model, data)
    total.backward()
    assert torch.isfinite(total)
    assert logs['loss_kd'] > 0
    assert logs['loss_at'] > 0
    # DistributedDataParallel with find_unused_parameters=False needs this.
    twin = 'distiller.self_teacher.twin.'
    unused = without_gradient(plain)
    expected = unused | {twin + n for n in unused if not n.startswith('backbone.')}
    assert without_gradient(model) <= expected


def shapes(output):
    if isinstance(output, torch.Tensor):
        return tuple(output.shape)
    if isinstance(output, (list, tuple)):
        return [shapes(item) for item in output]
    return type(output)


@pytest.mark.parametrize('family', FAMILIES)
def test_student_and_twin_give_outputs_of_one_structure(family):
    model = distilled(family).train()
    student, teacher = run_both(model, family_batch(family))
    assert [f.shape for f in student.feats] == [f.shape for f in teacher.feats]
    names = [n for n in student.outputs if n != 'feats' and 'samples' not in n]
    assert names
    for name in names:
        if family == 'dino' and name == 'matches':
            continue
        assert shapes(student.output(name)) == shapes(teacher.output(name))


@pytest.mark.parametrize('family', TWO_STAGE)
def test_twin_scores_the_students_proposals(family, monkeypatch):
    model = distilled(family).train()
    head = type(model.roi_head)
    rois = []
    original = head._bbox_forward

    def spy(self, *args):
        rois.append(args[-1].clone())
        return original(self, *args)

    monkeypatch.setattr(head, '_bbox_forward', spy)
    run_both(model, family_batch(family))
    stages = len(rois) // 2
    assert stages == (2 if family == 'cascade_rcnn' else 1)
    for student, teacher in zip(rois[:stages], rois[stages:]):
        assert torch.equal(student, teacher)
    # Left alone, the twin would have sampled others.
    rois.clear()
    model.student_class.loss(model, *family_batch(family).values())
    assert rois[0].shape != student.shape or not torch.equal(rois[0], student)


def compared(family):
    """What the two models gave, and the comparisons made of it."""
    model, data = distilled(family).train(), family_batch(family)
    student, teacher = run_both(model, data)
    heads = model.distiller.task.soft_labels(student, teacher, data['data_samples'])
    return student, teacher, heads


def test_dense_places_weigh_as_much_as_the_self_teacher_is_confident():
    _, _, (labels,) = compared('retinanet')
    weight, bbox_weight = DetSoftLabelLoss().place_weights(labels)
    expected = labels.teacher_cls.detach().sigmoid().amax(dim=1) ** 2
    torch.testing.assert_close(weight, expected)
    torch.testing.assert_close(bbox_weight, expected)


TERMS = [
    ('loss_kd', {'backbone', 'neck', 'student_head'}),
    ('loss_at', {'backbone', 'neck'}),
]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize(('term', 'reaches'), TERMS, ids=[t for t, _ in TERMS])
def test_distillation_terms_train_only_the_student(term, reaches, family):
    model = distilled(family, soft_label=dict(bbox_weight=1.0)).train()
    model.loss(**family_batch(family))[term].backward()
    assert parts_with_gradient(model) == reaches


@pytest.mark.parametrize('detach_inputs', [True, False])
@pytest.mark.parametrize('family', ['fcos', 'mask_rcnn', 'deformable_detr'])
def test_self_teachers_own_loss(family, detach_inputs):
    model = distilled(family, detach_inputs=detach_inputs).train()
    losses = model.loss(**family_batch(family))
    own = {k: v for k, v in losses.items() if k.startswith('self_teacher.')}
    model.parse_losses(own)[0].backward()
    reached = (
        {'self_teacher'} if detach_inputs else {'self_teacher', 'backbone', 'neck'}
    )
    assert parts_with_gradient(model) == reached


def test_without_weights_trains_like_upstream_bit_for_bit():
    def train(cfg, steps=4):
        torch.manual_seed(3)
        model = MODELS.build(cfg)
        model.init_weights()
        model.train()
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9
        )
        torch.manual_seed(4)
        for _ in range(steps):
            optimizer.zero_grad()
            total_loss(model, batch())[0].backward()
            optimizer.step()
        return model.state_dict()

    plain = train(student_cfg('retinanet'))
    with_distiller = train(
        dict(
            type='frskd_mm.Distilled',
            student=student_cfg('retinanet'),
            distiller=frskd_cfg(alpha=0.0, beta=0.0, self_teacher_loss_weight=0.0),
        )
    )
    for key, value in plain.items():
        assert torch.equal(value, with_distiller[key]), key


@pytest.mark.parametrize('foreground', ['confidence', 'boxes'])
def test_foreground_weights_change_the_terms(foreground):
    torch.manual_seed(0)
    plain = distilled(
        'retinanet',
        soft_label=dict(foreground=None),
        feature_loss=dict(foreground=None),
    ).train()
    torch.manual_seed(0)
    weighted = distilled(
        'retinanet',
        soft_label=dict(foreground=foreground),
        feature_loss=dict(foreground=foreground),
    ).train()
    data = batch()
    before, after = plain.loss(**deepcopy(data)), weighted.loss(**data)
    torch.testing.assert_close(before['loss_cls'], after['loss_cls'])
    assert before['loss_kd'] != after['loss_kd']
    assert before['loss_at'] > after['loss_at'] > 0


def test_mode_switches_reach_the_self_teacher():
    from mmdet.engine.hooks import YOLOXModeSwitchHook

    class TrainLoader:
        persistent_workers = False

        class dataset:
            @staticmethod
            def update_skip_type_keys(keys):
                pass

    class Runner:
        epoch, max_epochs = 9, 10
        train_dataloader = TrainLoader

        class logger:
            @staticmethod
            def info(message):
                pass

    model = distilled('yolox').train()
    assert 'self_teacher.loss_l1' not in model.loss(**batch())
    Runner.model = model
    YOLOXModeSwitchHook(num_last_epochs=2).before_train_epoch(Runner)
    losses = model.loss(**batch())
    assert losses['loss_l1'] > 0
    assert losses['self_teacher.loss_l1'] > 0


def test_rewired_widths_stay_when_switches_are_copied():
    neck = dict(type='frskd_mm.BiFPN', out_channels=8)
    model = distilled('fcos', neck=neck).train()
    model.loss(**batch())
    assert model.bbox_head.in_channels == 16
    assert model.distiller.self_teacher.twin.bbox_head.in_channels == 8


@pytest.mark.parametrize(
    'family',
    [
        *ONE_STAGE,
        *('faster_rcnn', 'mask_rcnn', 'cascade_rcnn'),
        # Parts of these are as wide as the maps, which are adapted to them.
        *('htc', 'sabl', 'sparse_rcnn'),
    ],
)
def test_heads_read_maps_of_other_widths(family):
    neck = dict(type='frskd_mm.BiFPN', out_channels=24)
    model = distilled(family, neck=neck).train()
    total, _ = total_loss(model, family_batch(family))
    total.backward()
    assert torch.isfinite(total)


def test_heads_whose_stages_name_the_channels_are_not_rewired():
    stages = [dict(type='StageCascadeRPNHead', in_channels=256)]
    cfg = ConfigDict(
        type='FasterRCNN',
        rpn_head=dict(type='CascadeRPNHead', num_classes=1, stages=stages),
    )
    with pytest.raises(RewiringError, match='as wide as the maps'):
        DetectionTask().twin_cfg(cfg, 'neck', [256] * 5, [128] * 5)


@pytest.mark.parametrize('family', ['retinanet', 'mask_rcnn', 'deformable_detr'])
def test_backbone_as_source_rewires_the_neck(family):
    neck = dict(type='frskd_mm.BiFPNc', width=2)
    model = distilled(family, neck=neck, source='backbone').train()
    total, _ = total_loss(model, family_batch(family))
    total.backward()
    assert without_gradient(model) == set()


def test_feature_terms_alone_work_with_the_soft_label_off():
    model = distilled('retinanet', alpha=0.0).train()
    losses = model.loss(**batch())
    assert 'loss_kd' not in losses
    assert losses['loss_at'] > 0


@pytest.mark.parametrize('family', FAMILIES)
def test_student_loads_strictly_upstream_and_predicts_the_same(family):
    model = distilled(family).train()
    data = family_batch(family)
    total_loss(model, data)[0].backward()  # also moves the BN statistics
    model.eval()
    plain = MODELS.build(student_cfg(family)).eval()
    state = model.state_dict()
    exported = {k: v for k, v in state.items() if not k.startswith('distiller.')}
    plain.load_state_dict(exported, strict=True)
    unexported = MODELS.build(student_cfg(family)).eval()
    report = unexported.load_state_dict(state, strict=False)
    assert not report.missing_keys
    assert all(key.startswith('distiller.') for key in report.unexpected_keys)
    with torch.no_grad():
        results = [
            m.predict(data['inputs'], deepcopy(data['data_samples']), rescale=False)
            for m in (model, plain, unexported)
        ]
    for ours, *theirs in zip(*results):
        assert len(ours.pred_instances) > 0
        for other in theirs:
            for key, value in ours.pred_instances.items():
                assert torch.equal(value, other.pred_instances[key])


@pytest.mark.parametrize('family', ['retinanet', 'mask_rcnn', 'deformable_detr'])
def test_self_teacher_predicts(family):
    model = distilled(family).eval()
    data = family_batch(family)
    with torch.no_grad(), model.as_self_teacher():
        results = model.predict(data['inputs'], data['data_samples'])
    assert len(results) == 2
    assert len(results[0].pred_instances) > 0


def test_test_time_augmentation_is_the_students():
    """mmdet's DetTTAModel around a distilled model, as around the plain student."""
    preprocessor = dict(type='mmdet.DetDataPreprocessor')
    cfg = student_cfg('retinanet')
    cfg['data_preprocessor'] = preprocessor
    plain = MODELS.build(ConfigDict(cfg))
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=cfg, distiller=frskd_cfg())
    )
    plain.load_state_dict(model.state_dict(), strict=False)
    image = torch.rand(3, 64, 64) * 255

    def views():
        data = [batch(boxes=[[[4, 6, 40, 44]]]) for _ in range(2)]
        for flip, view in enumerate(data):
            view['data_samples'][0].set_metainfo(
                dict(flip=bool(flip), flip_direction='horizontal')
            )
        return dict(
            inputs=[[image], [image.flip(-1)]],
            data_samples=[view['data_samples'] for view in data],
        )

    tta_cfg = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=10)
    merged = []
    for module in (model, plain):
        tta = MODELS.build(
            dict(type='mmdet.DetTTAModel', module=module, tta_cfg=tta_cfg)
        )
        with torch.no_grad():
            (sample,) = tta.eval().test_step(views())
        merged.append(sample.pred_instances)
    assert len(merged[0]) > 0
    for key in ('bboxes', 'scores', 'labels'):
        assert torch.equal(merged[0][key], merged[1][key]), key
