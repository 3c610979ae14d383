"""Which reader takes which head of a detector."""

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from det_toys import (
    distilled,
    family_batch,
    frskd_cfg,
    student_cfg,
)
from mmdet.models.losses import QualityFocalLoss
from mmdet.registry import MODELS as MMDET

from frskd_mm.models.losses import SoftLabels
from frskd_mm.models.tasks.readers import (
    DenseReader,
    HeadReader,
    MaskReader,
    ProposalReader,
    QueryReader,
    RPNReader,
    find_readers,
)
from frskd_mm.registry import HEAD_READERS

KINDS = {
    'retinanet': {'dense': DenseReader},
    'faster_rcnn': {'rpn': RPNReader, 'roi0': ProposalReader},
    'mask_rcnn': {'rpn': RPNReader, 'roi0': ProposalReader, 'mask0': MaskReader},
    'cascade_rcnn': {
        'rpn': RPNReader,
        'roi0': ProposalReader,
        'roi1': ProposalReader,
    },
    'deformable_detr': {'queries': QueryReader},
}


@pytest.mark.parametrize('family', KINDS)
def test_heads_are_found_by_their_kind(family):
    readers = find_readers(MODELS.build(student_cfg(family)))
    assert {reader.name: type(reader) for reader in readers} == KINDS[family]


def test_a_subclass_of_the_quality_focal_loss_is_one():
    @MMDET.register_module()
    class MyQualityFocalLoss(QualityFocalLoss):
        pass

    try:
        cfg = student_cfg('gfl')
        cfg.bbox_head.loss_cls.type = 'MyQualityFocalLoss'
        model = MODELS.build(
            dict(
                type='frskd_mm.Distilled',
                student=cfg,
                distiller=frskd_cfg(),
            )
        ).train()
        data = family_batch('gfl')
        distiller = model.distiller
        student = distiller.run_student(model, **data, source=distiller.source)
        teacher = distiller.run_self_teacher(model, student, data['data_samples'])
        (labels,) = distiller.task.soft_labels(student, teacher, data['data_samples'])
        assert labels.cls_form == 'quality'
    finally:
        MMDET.module_dict.pop('MyQualityFocalLoss')


class FinestLevel(DenseReader):
    """A reader from outside: RetinaNet's finest level alone, as softmax."""

    @classmethod
    def find(cls, detector):
        from mmdet.models.dense_heads import RetinaHead

        head = getattr(detector, 'bbox_head', None)
        return [cls('dense')] if isinstance(head, RetinaHead) else []

    def soft_labels(self, student, teacher, data_samples):
        ours, theirs = (
            self.maps(one).cls[0].flatten(0, 1) for one in (student, teacher)
        )
        return SoftLabels(ours, theirs, 'softmax')


def test_a_reader_from_outside_takes_its_heads_over():
    HEAD_READERS.register_module(module=FinestLevel)
    try:
        model = distilled('retinanet').train()
        data = family_batch('retinanet')
        (reader,) = find_readers(model)
        assert type(reader) is FinestLevel
        assert isinstance(reader, HeadReader)
        losses = model.loss(**data)
        assert losses['loss_kd'] > 0
        assert torch.isfinite(losses['loss_kd'])
        (other,) = find_readers(MODELS.build(student_cfg('fcos')))
        assert type(other) is DenseReader
    finally:
        HEAD_READERS.module_dict.pop('FinestLevel')


def test_a_detector_without_a_known_head_is_told_what_to_do(monkeypatch):
    model, data = distilled('retinanet').train(), family_batch('retinanet')
    for name in list(HEAD_READERS.module_dict):
        monkeypatch.delitem(HEAD_READERS.module_dict, name)
    with pytest.raises(TypeError, match='HEAD_READERS'):
        model.loss(**data)
