"""FRSKD on mmseg's models: what is compared, masked, trained and predicted."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from seg_toys import (
    NORM,
    batch,
    build,
    cascade_cfg,
    head_cfg,
    point_rend_cfg,
    student_cfg,
    untrained,
)

from frskd_mm.models.tasks.segmentation import _logit_maps

PARTS = {
    'backbone': 'backbone',
    'decode_head': 'student_head',
    'auxiliary_head': 'auxiliary_head',
    'distiller': 'self_teacher',
}


def predict(model, data):
    """Logits (N, C, H, W) of a prediction."""
    model.eval()
    with torch.no_grad():
        samples = model.predict(data['inputs'], deepcopy(data['data_samples']))
    return torch.stack([sample.seg_logits.data for sample in samples])


def recorded_logits(model, data):
    """Logits of student and self-teacher and the term, of one forward pass."""
    distiller, samples = model.distiller, data['data_samples']
    student = distiller.run_student(model, **data, source='backbone')
    teacher = distiller.run_self_teacher(model, student, samples)
    term = distiller.compare_outputs(student, teacher, samples)
    return student.logits, teacher.logits, term


@pytest.mark.parametrize('detach_inputs', [True, False])
def test_each_term_trains_only_its_parts(detach_inputs):
    model = build(student_cfg(), detach_inputs=detach_inputs)
    reaches = {
        'decode.loss_ce': {'backbone', 'student_head'},
        'aux.loss_ce': {'backbone', 'auxiliary_head'},
        'self_teacher.decode.loss_ce': {'self_teacher'}
        | (set() if detach_inputs else {'backbone'}),
        'loss_kd': {'backbone', 'student_head'},
        'loss_at': {'backbone'},
    }
    losses = model(**batch(), mode='loss')
    assert {name for name in losses if 'loss' in name} == set(reaches)
    for term, parts in reaches.items():
        model.zero_grad()
        losses[term].backward(retain_graph=True)
        trained = {
            PARTS[name.split('.')[0]]
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }
        assert trained == parts, term


def test_without_weights_training_is_upstreams_bit_for_bit():
    data, states = batch(), []
    for distilled in (False, True):
        torch.manual_seed(3)
        model = MODELS.build(
            student_cfg()
            if not distilled
            else dict(
                type='frskd_mm.Distilled',
                student=student_cfg(),
                distiller=dict(
                    type='frskd_mm.FRSKD',
                    neck=dict(type='frskd_mm.BiFPNc'),
                    soft_label=dict(
                        type='frskd_mm.PixelSoftLabelLoss', loss_weight=0.0
                    ),
                    feature_loss=dict(
                        type='frskd_mm.AttentionTransferLoss', loss_weight=0.0
                    ),
                    self_teacher_loss_weight=0.0,
                ),
            )
        )
        model.init_weights()
        model.train()
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=0.1, momentum=0.9
        )
        for _ in range(5):
            total, _ = model.parse_losses(model(**data, mode='loss'))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        states.append(model.state_dict())
    plain, distilled = states
    for name, value in plain.items():
        assert torch.equal(value, distilled[name]), name


def test_soft_labels_average_over_labelled_pixels_at_the_logits_size():
    model, data = build(student_cfg()), batch()
    z_s, z_t, term = recorded_logits(model, data)
    assert z_s.shape[2:] == (4, 4)  # not upsampled
    total, count = 0.0, 0
    for n in range(2):
        labels = data['data_samples'][n].gt_sem_seg.data[0]
        for y in range(4):
            for x in range(4):
                # the label at the centre of the 8x8 pixels of a logit
                if labels[8 * y + 4, 8 * x + 4] != 255:
                    p = z_t[n, :, y, x].softmax(0)
                    q = z_s[n, :, y, x].softmax(0)
                    total += (p * (p / q).log()).sum()
                    count += 1
    assert 0 < count < 32
    torch.testing.assert_close(term, total / count, rtol=1e-4, atol=1e-7)


def test_soft_labels_as_in_the_authors_code():
    soft_label = dict(
        type='frskd_mm.PixelSoftLabelLoss', upsample=True, mask_ignored=False
    )
    model = build(student_cfg(), soft_label=soft_label)
    z_s, z_t, term = recorded_logits(model, batch())
    z_s, z_t = (F.interpolate(z, size=(32, 32), mode='bilinear') for z in (z_s, z_t))
    expected = F.kl_div(z_s.log_softmax(1), z_t.softmax(1), reduction='sum') / (
        2 * 32 * 32
    )
    torch.testing.assert_close(term, expected, rtol=1e-4, atol=1e-7)


def test_classes_that_are_trained_apart_are_compared_apart():
    loss = dict(type='CrossEntropyLoss', use_sigmoid=True)
    head = head_cfg(num_classes=3, loss_decode=loss)
    model = build(student_cfg(decode_head=head, auxiliary_head=None))
    z_s, z_t, term = recorded_logits(model, batch(num_classes=3, ignored=0.0))
    p, q = z_t.sigmoid(), z_s.sigmoid()
    each = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    torch.testing.assert_close(term, each.sum(dim=1).mean(), rtol=1e-3, atol=1e-7)


def test_binary_logits_are_compared_as_probabilities():
    head = head_cfg(
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model = build(student_cfg(decode_head=head, auxiliary_head=None))
    z_s, z_t, term = recorded_logits(model, batch(num_classes=2, ignored=0.0))
    p, q = z_t.sigmoid(), z_s.sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    assert expected > 0
    torch.testing.assert_close(term, expected, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ('data', 'dtype'),
    [
        (dict(ignored=1.1), None),  # all of them
        (dict(size=1), None),
        (dict(height=45, width=53), None),
        (dict(), torch.bfloat16),
    ],
    ids=['all-ignored', 'batch-of-1', 'odd-size', 'bf16'],
)
def test_edges_stay_finite(data, dtype):
    model = build(student_cfg())
    with torch.autocast('cpu', dtype=dtype or torch.bfloat16, enabled=bool(dtype)):
        losses = model(**batch(**data), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert not untrained(model)
    for parameter in model.parameters():
        assert torch.isfinite(parameter.grad).all()
    assert (losses['loss_kd'] == 0) == ('ignored' in data)


def test_pooled_norms_refuse_a_batch_of_one_upstream_too():
    student = student_cfg(
        decode_head=dict(
            type='PSPHead',
            in_channels=64,
            in_index=3,
            channels=8,
            num_classes=5,
            norm_cfg=NORM,
        )
    )
    for model in (MODELS.build(deepcopy(student)).train(), build(student)):
        with pytest.raises(ValueError, match='more than 1 value per channel'):
            model(**batch(size=1), mode='loss')


@pytest.mark.parametrize('index', [0, 1, 2, 3])
def test_every_parameter_is_trained_whatever_level_is_read(index):
    head = head_cfg(in_channels=8 * 2**index, in_index=index)
    last = head_cfg()  # else the plain student leaves its last stages untrained
    model = build(student_cfg(decode_head=head, auxiliary_head=last))
    total, _ = model.parse_losses(model(**batch(), mode='loss'))
    total.backward()
    assert not untrained(model)
    assert model.distiller.self_teacher.neck.layers[-1].bottom_up == index


def students():
    """Students that differ in what the head reads."""
    fpn = dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=4)
    fpn_head = point_rend_cfg()['decode_head'][0]
    concat = head_cfg(
        in_channels=[8, 16, 32, 64],
        in_index=[0, 1, 2, 3],
        input_transform='resize_concat',
        kernel_size=1,
    )
    deeplab = dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=64,
        in_index=3,
        channels=8,
        dilations=(1, 2),
        c1_in_channels=8,
        c1_channels=4,
        num_classes=5,
        norm_cfg=NORM,
    )
    segformer = dict(
        type='SegformerHead',
        in_channels=[8, 16, 40, 64],
        in_index=[0, 1, 2, 3],
        channels=8,
        num_classes=5,
        norm_cfg=NORM,
    )
    mit = dict(
        type='MixVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        num_heads=[1, 2, 5, 8],
    )
    enc = dict(
        type='EncHead',
        in_channels=[16, 32, 64],
        in_index=(1, 2, 3),
        channels=8,
        num_codes=4,
        num_classes=5,
        norm_cfg=NORM,
        loss_se_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    return {
        'fpn': (student_cfg(neck=fpn, decode_head=fpn_head, auxiliary_head=None), {}),
        'fpn-refined': (
            student_cfg(neck=fpn, decode_head=fpn_head, auxiliary_head=None),
            dict(source='neck'),
        ),
        'resize-concat': (student_cfg(decode_head=concat), {}),
        'deeplabv3plus': (student_cfg(decode_head=deeplab), {}),
        'segformer': (
            student_cfg(backbone=mit, decode_head=segformer, auxiliary_head=None),
            {},
        ),
        'encnet': (student_cfg(decode_head=enc), {}),
        'ocrnet': (cascade_cfg(), {}),
        'pointrend': (point_rend_cfg(), {}),
    }


@pytest.mark.parametrize('name', sorted(students()))
def test_segmentors_train_and_predict(name):
    student, settings = students()[name]
    model, data = build(student, **settings), batch()
    total, logs = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    assert logs['loss_kd'] > 0
    assert logs['loss_at'] > 0
    assert not untrained(model)
    assert not hasattr(model.distiller.self_teacher.twin, 'auxiliary_head')

    student_logits = predict(model, data)
    with model.as_self_teacher():
        teacher_logits = predict(model, data)
    assert teacher_logits.shape == student_logits.shape == (2, 5, 32, 32)
    assert not torch.equal(teacher_logits, student_logits)
    assert torch.equal(predict(model, data), student_logits)


def test_cascades_compare_the_last_dense_head():
    for cfg, compared in ((cascade_cfg(), 1), (point_rend_cfg(), 0)):
        model = build(cfg)
        target, _ = model.distiller.task.output_targets(model)['logits']
        assert target is model.decode_head[compared]
        assert len(model.distiller.self_teacher.twin.decode_head) == 2


def test_heads_without_class_maps_are_refused():
    head = build(student_cfg()).decode_head
    queries = [torch.zeros(2, 100, 6)], [torch.zeros(2, 100, 8, 8)]
    with pytest.raises(ValueError, match=r'soft_label=dict\(loss_weight=0\)'):
        _logit_maps(head, queries)


def test_a_neck_without_in_channels_gets_the_channels_of_the_student():
    """ViT with the pyramid of BEiT: one width at all levels, named embed_dim."""
    student = student_cfg(
        backbone=dict(
            type='VisionTransformer',
            img_size=32,
            patch_size=8,
            embed_dims=8,
            num_layers=4,
            num_heads=2,
            mlp_ratio=1,
            out_indices=(0, 1, 2, 3),
        ),
        neck=dict(
            type='Feature2Pyramid', embed_dim=8, rescales=[4, 2, 1, 0.5], norm_cfg=NORM
        ),
        decode_head=point_rend_cfg()['decode_head'][0],
        auxiliary_head=None,
    )
    wide = dict(type='frskd_mm.BiFPNc', width=2)
    twin = build(student, neck=wide).distiller.self_teacher.twin
    assert {
        level: (conv.in_channels, conv.out_channels)
        for level, conv in twin.backbone.adapters.items()
    } == {level: (16, 8) for level in '0123'}
    model = build(student, source='neck')
    assert model.distiller.self_teacher.neck.in_channels == [8] * 4


@pytest.mark.parametrize(('label', 'valid'), [(4, True), (255, True), (5, False)])
def test_labels_are_checked_against_the_head(label, valid):
    model, data = build(student_cfg()), batch()
    data['data_samples'][1].gt_sem_seg.data[0, 3, 3] = label
    if valid:
        model(**data, mode='loss')
        return
    with pytest.raises(
        ValueError, match=r'Labels \[5\] in labels/1.png.*num_classes=5'
    ):
        model(**data, mode='loss')


SLIDE = dict(mode='slide', crop_size=(24, 24), stride=(8, 8))


@pytest.mark.parametrize('test_cfg', [dict(mode='whole'), SLIDE])
def test_exported_student_predicts_identically_in_plain_mmseg(test_cfg):
    model = build(student_cfg(test_cfg=test_cfg))
    data = batch(height=40, width=33)
    model(**data, mode='loss')  # moves the running statistics
    student = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith('distiller.')
    }
    plain = ConfigDict(student_cfg(test_cfg=test_cfg))
    strict, loose = MODELS.build(plain), MODELS.build(plain)
    strict.load_state_dict(student, strict=True)
    keys = loose.load_state_dict(model.state_dict(), strict=False)
    assert not keys.missing_keys
    assert all(key.startswith('distiller.') for key in keys.unexpected_keys)
    expected = predict(model, data)
    assert torch.equal(predict(strict, data), expected)
    assert torch.equal(predict(loose, data), expected)


def test_self_teacher_slides_as_the_student_does():
    model = build(student_cfg(test_cfg=SLIDE))
    data = batch(height=40, width=33)
    with model.as_self_teacher():
        slid = predict(model, data)
    assert slid.shape == (2, 5, 40, 33)
    # Slide over a window's worth of image: the same as whole.
    small = batch(height=24, width=24)
    with model.as_self_teacher():
        one_window = predict(model, small)
        model.test_cfg = ConfigDict(mode='whole')
        whole = predict(model, small)
    torch.testing.assert_close(one_window, whole)
    self_teacher = model.distiller.self_teacher
    with torch.no_grad():
        refined = self_teacher.refine(model.extract_feat(small['inputs']))
        logits = self_teacher.twin.decode_head(refined)
    expected = F.interpolate(logits, size=(24, 24), mode='bilinear')
    torch.testing.assert_close(whole, expected)


def test_test_time_augmentation_is_the_students():
    """mmseg's SegTTAModel around a distilled model, as around the plain student."""
    preprocessor = dict(type='mmseg.SegDataPreProcessor', size=(32, 32))
    model = build(student_cfg(data_preprocessor=preprocessor))
    plain = MODELS.build(ConfigDict(student_cfg(data_preprocessor=preprocessor)))
    plain.load_state_dict(model.state_dict(), strict=False)
    original = torch.randn(3, 32, 32)

    def views():
        images, samples = [], []
        for flip in (False, True):
            data = batch(size=1)
            image = original.flip(-1) if flip else original
            data['data_samples'][0].set_metainfo(
                dict(flip=flip, flip_direction='horizontal')
            )
            images.append([image])
            samples.append(data['data_samples'])
        return dict(inputs=images, data_samples=samples)

    merged = []
    for module in (model, plain):
        tta = MODELS.build(dict(type='mmseg.SegTTAModel', module=module)).eval()
        with torch.no_grad():
            (sample,) = tta.test_step(views())
        merged.append((sample.pred_sem_seg.data, sample.seg_logits.data))
    torch.testing.assert_close(*merged, rtol=0, atol=0)


def five_bands(data):
    return {**data, 'inputs': torch.randn(2, 5, *data['inputs'].shape[2:])}


def test_images_of_five_bands():
    student = student_cfg()
    student['backbone']['in_channels'] = 5
    model = build(student)
    losses = model(**five_bands(batch()), mode='loss')
    model.parse_losses(losses)[0].backward()
    assert losses['loss_at'] > 0
    assert not untrained(model)


@pytest.mark.parametrize('num_classes', [1, 2])
def test_one_logit_tells_two_labels_apart(num_classes):
    head = head_cfg(
        num_classes=num_classes,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True),
    )
    model = build(student_cfg(decode_head=head, auxiliary_head=None))
    data = batch(num_classes=2, ignored=0.0)
    assert model(**data, mode='loss')['loss_kd'] > 0
    data['data_samples'][0].gt_sem_seg.data[0, 0] = 2
    with pytest.raises(ValueError, match=r'Labels \[2\]'):
        model(**data, mode='loss')
