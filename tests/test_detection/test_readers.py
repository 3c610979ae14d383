"""Which reader takes which head of a detector."""

import inspect
import textwrap
from itertools import product

import pytest
import torch
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from contracts import HeadReaderContract
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


def rows_of_maps(maps, classes):
    """Rows of dense maps, image by image: level, row, column, prior."""
    rows = {'cls': [], 'bbox': [], 'quality': []}
    for image in range(len(maps[0][0])):
        for level, cls in enumerate(maps[0]):
            priors, (height, width) = cls.shape[1] // classes, cls.shape[2:]
            parts = [cls, *(kind[level] for kind in maps[1:3])]
            for y, x, prior in product(range(height), range(width), range(priors)):
                for kind, part in zip(rows, parts):
                    columns = part.shape[1] // priors
                    at = slice(prior * columns, (prior + 1) * columns)
                    rows[kind].append(part[image, at, y, x])
    rows = {kind: torch.stack(found) for kind, found in rows.items() if found}
    if 'quality' in rows:
        rows['quality'] = rows['quality'].squeeze(1)
    if rows['bbox'].shape[1] > 4:
        rows['bbox'] = rows['bbox'].unflatten(1, (4, -1))
    return rows


class TestDenseReader(HeadReaderContract):
    component = DenseReader
    families = dict.fromkeys(('retinanet', 'fcos', 'gfl', 'yolox', 'rtmdet'), ['dense'])
    without = 'faster_rcnn'

    def expected(self, name, one, student, data_samples):
        return rows_of_maps(one.output(name), one.model.bbox_head.cls_out_channels)


class TestRPNReader(HeadReaderContract):
    component = RPNReader
    families = {'faster_rcnn': ['rpn']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        return rows_of_maps(one.output(name), 1)


class TestProposalReader(HeadReaderContract):
    component = ProposalReader
    families = {'faster_rcnn': ['roi0'], 'cascade_rcnn': ['roi0', 'roi1']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        """Boxes of the true class; those of negatives do not count."""
        cls, boxes = one.output(name)
        rows = []
        for sample in student.outputs[f'samples{name[-1]}']:
            labels = sample.pos_gt_labels.tolist() + [0] * len(sample.neg_priors)
            for label in labels:
                columns = 0 if boxes.shape[1] == 4 else 4 * label
                rows.append(boxes[len(rows), columns : columns + 4])
        return {'cls': cls, 'bbox': torch.stack(rows)}

    def test_boxes_of_positives_count(self):
        _, passes, samples, (reader,) = self.compared('faster_rcnn', 'cpu')
        labels = reader.soft_labels(*passes, samples)
        counted = []
        for sample in passes[0].outputs['samples0']:
            assert len(sample.pos_priors)
            counted += [1.0] * len(sample.pos_priors) + [0.0] * len(sample.neg_priors)
        assert labels.bbox_weight.tolist() == counted


class TestMaskReader(HeadReaderContract):
    component = MaskReader
    families = {'mask_rcnn': ['mask0']}
    without = 'faster_rcnn'

    def expected(self, name, one, student, data_samples):
        masks, pixels = one.output(name), []
        for sample in student.outputs['samples0']:
            for label in sample.pos_gt_labels.tolist():
                pixels.append(masks[len(pixels), label].reshape(-1, 1))
        return {'cls': torch.cat(pixels)}


class TestQueryReader(HeadReaderContract):
    component = QueryReader
    families = {'deformable_detr': ['queries'], 'dino': ['queries']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        """The queries matched to each box, by layer and image."""
        cls, boxes = one.output(name)[:2]
        rows = {'cls': [], 'bbox': []}
        for call, match in enumerate(one.outputs['matches'][: 2 * len(cls)]):
            layer, image = call // 2, call % 2
            first = cls.shape[2] - len(match.gt_inds)  # after DINO's denoising ones
            for box in range(1, match.num_gts + 1):
                query = first + match.gt_inds.tolist().index(box)
                rows['cls'].append(cls[layer, image, query])
                rows['bbox'].append(boxes[layer, image, query])
        assert len(rows['cls']) == 2 * 3  # layers, boxes of the batch
        return {kind: torch.stack(found) for kind, found in rows.items()}


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


def test_the_example_of_the_base_class_reads_a_head():
    from mmdet.models.dense_heads import FCOSHead

    lines = inspect.getdoc(HeadReader).splitlines()
    begin = next(i for i, line in enumerate(lines) if line.endswith('::'))
    end = next(i for i, line in enumerate(lines) if line.startswith('``SoftLabels``'))
    names = dict(
        HEAD_READERS=HEAD_READERS,
        HeadReader=HeadReader,
        SoftLabels=SoftLabels,
        MyHead=FCOSHead,
    )
    try:
        exec(textwrap.dedent('\n'.join(lines[begin + 1 : end])), names)
        model, data = distilled('fcos').train(), family_batch('fcos')
        (reader,) = find_readers(model)
        assert type(reader) is names['FinestMap']
        assert model.loss(**data)['loss_kd'] > 0
    finally:
        HEAD_READERS.module_dict.pop('FinestMap', None)


def test_a_detector_without_a_known_head_is_told_what_to_do(monkeypatch):
    model, data = distilled('retinanet').train(), family_batch('retinanet')
    monkeypatch.setattr(HEAD_READERS, '_module_dict', {})  # whose order matters
    with pytest.raises(TypeError, match='HEAD_READERS'):
        model.loss(**data)
