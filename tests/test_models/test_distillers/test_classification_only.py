"""Methods for one label an image: heads that they refuse, and what they compare."""

import pytest
import torch
from comparators import pair_batch
from mmengine.registry import MODELS
from toys import toy_batch, toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.tasks.classification import merge_branches


@pytest.mark.parametrize(
    'head',
    [
        dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64),
        dict(
            type='MultiTaskHead',
            in_channels=64,
            task_heads=dict(colour=dict(type='LinearClsHead', num_classes=3)),
        ),
        pytest.param(
            dict(type='LinearRegressionHead', num_classes=1, in_channels=64),
            marks=pytest.mark.skipif(
                'LinearRegressionHead' not in MODELS.module_dict
                and MODELS.get('mmpretrain.LinearRegressionHead') is None,
                reason='an earlier mmpretrain',
            ),
        ),
    ],
    ids=lambda head: head['type'],
)
def test_heads_with_several_labels_are_refused(head):
    student = dict(toy_student_cfg(), head=head)
    with pytest.raises(TypeError, match=f'the head is a {head["type"]}'):
        MODELS.build(
            dict(type='frskd_mm.Distilled', student=student, distiller=toy_frskd_cfg())
        )


def arcface(distiller):
    head = dict(type='ArcFaceClsHead', num_classes=10, in_channels=64)
    student = dict(toy_student_cfg(), head=head)
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
    )
    model.init_weights()
    return model.train()


@pytest.mark.parametrize(
    ('method', 'partner', 'term'),
    [
        ('CSKD', 'same_class', 'loss_cs_kd'),
        ('Consistency', 'same_image', 'loss_consistency'),
    ],
)
def test_equal_images_of_a_pair_agree_under_arcface(method, partner, term):
    """Whose logits in training have a margin, and are recorded without their scale."""
    model = arcface(dict(type=f'frskd_mm.{method}'))
    batch = pair_batch(partner)
    images = batch['inputs'].chunk(2)[0]
    batch['inputs'] = torch.cat([images, images])
    losses = model(**batch, mode='loss')
    torch.testing.assert_close(losses[term], torch.tensor(0.0), atol=1e-5, rtol=0)
    assert losses['student.loss'] > 1


def test_ps_kd_keeps_what_arcface_predicts():
    model = arcface(dict(type='frskd_mm.PSKD', num_samples=4))
    batch = toy_batch()
    for index, sample in enumerate(batch['data_samples']):
        sample.set_field(index, 'sample_idx', field_type='metainfo')
    model(**batch, mode='loss')
    predicted = model(batch['inputs'], mode='tensor').softmax(dim=1)
    torch.testing.assert_close(model.distiller.predictions, predicted)


def test_two_branches_predict_from_their_sum():
    one, two = torch.randn(2, 3, 10)
    assert torch.equal(merge_branches((one, two)), one + two)
    assert merge_branches(one) is one


@pytest.mark.parametrize('method', ['DDGSD', 'SLA'])
def test_methods_that_read_one_pooled_vector_refuse_two(method):
    student = toy_student_cfg()
    student['neck'] = None
    student['head'] = dict(type='ConformerHead', num_classes=10, in_channels=(64, 64))
    distiller = dict(type=f'frskd_mm.{method}')
    with pytest.raises(TypeError, match=f'{method} reads one pooled vector'):
        MODELS.build(
            dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
        )


@pytest.mark.parametrize(
    ('distiller', 'name'),
    [
        (dict(type='frskd_mm.PSKD', num_samples=8), 'num_classes'),
        (dict(type='frskd_mm.SLA'), 'in_channels'),
    ],
)
def test_heads_without_a_layer_are_named(distiller, name):
    student = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='LeNet5', num_classes=10),
        head=dict(type='ClsHead', loss=dict(type='CrossEntropyLoss')),
    )
    with pytest.raises(TypeError, match=f'reads {name} of the head'):
        MODELS.build(
            dict(type='frskd_mm.Distilled', student=student, distiller=distiller)
        )
