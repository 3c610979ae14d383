"""Methods for one label an image say so when they are built."""

import pytest
from mmengine.registry import MODELS
from toys import toy_frskd_cfg, toy_student_cfg


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
