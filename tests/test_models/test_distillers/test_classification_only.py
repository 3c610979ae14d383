"""Methods for one label an image say so when they are built."""

import pytest
from mmengine.registry import MODELS
from test_detection.det_toys import student_cfg as detector_cfg
from toys import toy_frskd_cfg, toy_student_cfg

METHODS = [
    dict(type='frskd_mm.Consistency'),
    dict(type='frskd_mm.CSKD'),
    dict(type='frskd_mm.DDGSD'),
    dict(type='frskd_mm.DLB'),
    dict(toy_frskd_cfg(), type='frskd_mm.FRSKDSLA'),
    dict(type='frskd_mm.PSKD', num_samples=4),
    dict(type='frskd_mm.SLA'),
    dict(type='frskd_mm.TfKDReg'),
    dict(type='frskd_mm.USKD'),
    dict(type='frskd_mm.ZipfLS'),
]


def segmentor_cfg():
    pytest.importorskip('mmseg')
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmseg.ResNet', depth=18, base_channels=8),
        decode_head=dict(
            type='mmseg.FCNHead', in_channels=64, in_index=3, channels=8, num_classes=5
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )


def retinanet_cfg():
    pytest.importorskip('mmdet')
    return detector_cfg('retinanet')


@pytest.mark.parametrize('student', [segmentor_cfg, retinanet_cfg])
@pytest.mark.parametrize('method', METHODS, ids=lambda method: method['type'])
def test_students_for_dense_prediction_are_refused(student, method):
    name = method['type'].partition('.')[2]
    with pytest.raises(TypeError, match=f'{name} is for classification'):
        MODELS.build(
            dict(type='frskd_mm.Distilled', student=student(), distiller=method)
        )


@pytest.mark.parametrize(
    'head',
    [
        dict(type='MultiLabelLinearClsHead', num_classes=10, in_channels=64),
        dict(
            type='MultiTaskHead',
            in_channels=64,
            task_heads=dict(colour=dict(type='LinearClsHead', num_classes=3)),
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
