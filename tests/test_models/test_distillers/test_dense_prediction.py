"""The comparators that carry over to segmentation and detection."""

from copy import deepcopy

import pytest
import reference
import torch
from contracts import trained_parts
from mmengine.registry import MODELS
from test_detection.det_toys import batch as detection_batch
from test_detection.det_toys import student_cfg as detector_cfg

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

TASKS = ('segmentation', 'retinanet', 'faster_rcnn')
SOFT_LABELS = {
    'segmentation': 'frskd_mm.PixelSoftLabelLoss',
    'retinanet': 'frskd_mm.DetSoftLabelLoss',
    'faster_rcnn': 'frskd_mm.DetSoftLabelLoss',
}
FEATURE_TERMS = {
    'loss_at': dict(type='frskd_mm.AttentionTransferLoss'),
    'loss_fitnet': dict(type='frskd_mm.FitNetLoss'),
    'loss_overhaul': dict(type='frskd_mm.OverhaulLoss', margin='batch'),
}


def segmentor_cfg():
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(
            type='mmseg.ResNet', depth=18, base_channels=8, norm_cfg=dict(type='BN')
        ),
        decode_head=dict(
            type='mmseg.FCNHead',
            in_channels=64,
            in_index=3,
            channels=8,
            num_classes=5,
            norm_cfg=dict(type='BN'),
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def segmentation_batch():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 5, (1, 64, 64)))
        samples.append(sample)
    return dict(inputs=torch.randn(2, 3, 64, 64), data_samples=samples)


def student_of(task):
    return segmentor_cfg() if task == 'segmentation' else detector_cfg(task)


def batch_of(task):
    return segmentation_batch() if task == 'segmentation' else detection_batch()


def build(task, distiller):
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student_of(task), distiller=distiller)
    )
    model.init_weights()
    return model.train()


def losses_of(model, task):
    """The terms; every parameter that the plain student trains must be trained."""
    data = batch_of(task)
    plain = MODELS.build(student_of(task))
    plain_total, _ = plain.parse_losses(
        plain.loss(data['inputs'], deepcopy(data['data_samples']))
    )
    plain_total.backward()
    unused = tuple(
        name for name, param in plain.named_parameters() if param.grad is None
    )

    losses = model.loss(data['inputs'], data['data_samples'])
    total, log = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    strays = [
        name
        for name, param in model.named_parameters()
        if param.requires_grad and param.grad is None and not name.endswith(unused)
    ]
    assert not strays
    return {**losses, **log}


@pytest.mark.parametrize('task', TASKS)
def test_byot_gives_auxiliary_heads_of_the_students_kind(task):
    soft_label = dict(type=SOFT_LABELS[task], temperature=1.0)
    model = build(task, dict(type='frskd_mm.BYOT', soft_label=soft_label))
    losses = losses_of(model, task)
    for level in range(len(model.distiller.branches)):
        assert losses[f'branch_{level}.loss_kd'] > 0
        assert losses[f'branch_{level}.loss_hint'] > 0
    assert len(model.distiller.branches) >= 2


@pytest.mark.parametrize('task', TASKS)
def test_sad(task):
    assert losses_of(build(task, dict(type='frskd_mm.SAD')), task)['loss_sad'] > 0


def taught(task, folder, temperature=1.0, **distiller):
    """A student with a teacher of its own kind, and that teacher."""
    torch.manual_seed(1)
    teacher = MODELS.build(student_of(task))
    teacher.init_weights()
    checkpoint = str(folder / 'teacher.pth')
    torch.save(dict(state_dict=teacher.state_dict()), checkpoint)
    model = build(
        task,
        dict(
            type='frskd_mm.PretrainedTeacher',
            teacher=student_of(task),
            checkpoint=checkpoint,
            soft_label=dict(type=SOFT_LABELS[task], temperature=temperature),
            **distiller,
        ),
    )
    return model, teacher


@pytest.mark.parametrize('term', FEATURE_TERMS)
@pytest.mark.parametrize('task', TASKS)
def test_pretrained_teacher(task, term, tmp_path):
    model, _ = taught(task, tmp_path, feature_loss=FEATURE_TERMS[term])
    losses = losses_of(model, task)
    assert losses['loss_kd'] > 0
    assert losses[term] > 0


@pytest.mark.parametrize('term', ['loss_fitnet', 'loss_overhaul'])
@pytest.mark.parametrize('task', TASKS)
def test_frskd_with_each_feature_term(task, term):
    model = build(
        task,
        dict(
            type='frskd_mm.FRSKD',
            neck=dict(type='frskd_mm.BiFPNc', width=1),
            soft_label=dict(type=SOFT_LABELS[task], temperature=1.0),
            feature_loss=dict(type=FEATURE_TERMS[term]['type']),
        ),
    )
    assert losses_of(model, task)[term] > 0


#: The branches of BYOT are told apart.
PARTS = {f'distiller.branches.{i}.': f'branches.{i}' for i in range(4)}


def parts_reached(model, term):
    return trained_parts(model, term, PARTS)


def stages_reached(model, term):
    """Indices of the backbone's four stages that a term trains."""
    assert 'backbone' in parts_reached(model, term)
    return {
        stage
        for stage in range(4)
        for param in getattr(model.backbone, f'layer{stage + 1}').parameters()
        if param.grad is not None and param.grad.abs().sum() > 0
    }


#: What lies between the backbone and the compared outputs.
REST = {
    'segmentation': {'decode_head'},
    'retinanet': {'neck', 'bbox_head'},
    'faster_rcnn': {'neck', 'rpn_head', 'roi_head'},
}


@pytest.mark.parametrize('task', TASKS)
def test_byot_trains_branches_and_backbone_alone(task):
    soft_label = dict(type=SOFT_LABELS[task], temperature=1.0)
    model = build(task, dict(type='frskd_mm.BYOT', soft_label=soft_label))
    losses = model.loss(**batch_of(task))
    for level in range(len(model.distiller.branches)):
        for term in ('loss_kd', 'loss_hint'):
            reached = parts_reached(model, losses[f'branch_{level}.{term}'])
            assert reached == {'backbone', f'branches.{level}'}, term
            last = model.backbone.out_indices[level]
            assert stages_reached(model, losses[f'branch_{level}.{term}']) == set(
                range(last + 1)
            )


@pytest.mark.parametrize('task', TASKS)
def test_sad_trains_the_backbone_alone(task):
    model = build(task, dict(type='frskd_mm.SAD'))
    term = model.loss(**batch_of(task))['loss_sad']
    assert parts_reached(model, term) == {'backbone'}
    assert stages_reached(model, term) == {0, 1, 2}  # the deepest is only a target


@pytest.mark.parametrize('task', TASKS)
def test_a_pretrained_teacher_trains_the_student_alone(task, tmp_path):
    model, _ = taught(task, tmp_path, feature_loss=FEATURE_TERMS['loss_at'])
    losses = model.loss(**batch_of(task))
    source = {'backbone'} if task == 'segmentation' else {'backbone', 'neck'}
    assert parts_reached(model, losses['loss_kd']) == {'backbone'} | REST[task]
    assert parts_reached(model, losses['loss_at']) == source


def test_segmentors_terms_equal_the_equations(tmp_path):
    data = segmentation_batch()
    model, teacher = taught('segmentation', tmp_path, temperature=2.0)
    teacher.eval()
    # Logits that differ by more than rounding.
    for seed, one in enumerate((model, teacher)):
        torch.manual_seed(seed)
        torch.nn.init.normal_(one.decode_head.conv_seg.weight)
        one.decode_head.dropout = None
    model.distiller.teacher.load_state_dict(teacher.state_dict())
    found = model.loss(**data)['loss_kd']
    logits = [
        one.decode_head(one.extract_feat(data['inputs'])) for one in (model, teacher)
    ]
    torch.testing.assert_close(found, reference.soft_label(*logits, temperature=2.0))
    assert found > 0.1

    model = build('segmentation', dict(type='frskd_mm.SAD', loss_weight=5.0))
    found = model.loss(**data)['loss_sad']
    expected = 0
    feats = model.extract_feat(data['inputs'])
    for shallow, deep in zip(feats, feats[1:]):
        deep = torch.nn.functional.interpolate(
            (deep**2).sum(dim=1, keepdim=True), shallow.shape[2:], mode='bilinear'
        )
        for one, other in zip((shallow**2).sum(dim=1), deep[:, 0]):
            maps = [torch.exp(e - e.max()) for e in (one, other)]
            maps = [m / m.sum() for m in maps]
            expected += ((maps[0] - maps[1]) ** 2).mean() / len(shallow)
    torch.testing.assert_close(found, 5.0 * expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize('task', ['segmentation', 'retinanet'])
def test_one_is_for_classification(task):
    with pytest.raises(TypeError, match='ONE is for classification'):
        build(task, dict(type='frskd_mm.ONE', soft_label=dict()))
