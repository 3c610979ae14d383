"""RoI heads of every kind, query-based heads, YOLOv3 and SOLO: what is compared."""

from copy import deepcopy

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from contracts import HeadReaderContract
from det_toys import (
    NUM_CLASSES,
    RARE,
    distilled,
    family_batch,
    frskd_cfg,
    run_both,
    student_cfg,
    total_loss,
)
from mmdet.models.detectors import BaseDetector
from mmdet.registry import MODELS as MMDET

from frskd_mm.models.losses import DetSoftLabelLoss, SoftLabels
from frskd_mm.models.tasks.readers import (
    GridReader,
    MaskQueryReader,
    QueryMaskReader,
    QueryStageReader,
    YOLOV3Reader,
    find_readers,
)
from frskd_mm.models.tasks.readers.base import activated_logits

REFUSED = ('crowddet', 'centernet')
COMPARED = [family for family in RARE if family not in REFUSED]


@pytest.fixture(autouse=True)
def _epoch():
    """Let TOOD's head, which asks the message hub, be in the first epoch."""
    MessageHub.get_current_instance().update_info('epoch', 0)
    yield
    MessageHub.get_current_instance().pop_info('epoch')


def trained(model):
    """The first parts of the names of parameters with a gradient."""
    return {
        name.partition('.')[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


@pytest.mark.parametrize('family', COMPARED)
def test_heads_of_every_kind_are_compared_and_train(family):
    torch.manual_seed(0)
    model, data = distilled(family, soft_label=dict(bbox_weight=1.0)), None
    model.train()
    data = family_batch(family)
    losses = model.loss(**data)
    losses['loss_kd'].backward(retain_graph=True)
    assert losses['loss_kd'] > 0
    parts = trained(model)
    assert 'backbone' in parts
    assert 'distiller' not in parts
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.001
    )
    for _ in range(2):
        optimizer.zero_grad()
        total, _ = total_loss(model, data)
        total.backward()
        assert torch.isfinite(total)
        optimizer.step()
    # What was trained loads in the plain detector as it is.
    weights = {
        name: value
        for name, value in model.state_dict().items()
        if not name.startswith('distiller.')
    }
    MODELS.build(student_cfg(family)).load_state_dict(weights, strict=True)
    twin = 'distiller.self_teacher.twin.'
    for part in (twin, 'backbone.'):
        moved = [
            not torch.equal(value, before[name])
            for name, value in model.state_dict().items()
            if name.startswith(part) and value.is_floating_point()
        ]
        assert any(moved), part


@pytest.mark.parametrize(
    ('family', 'head'),
    [('crowddet', 'MultiInstanceBBoxHead'), ('centernet', 'CenterNetHead')],
)
def test_heads_without_rows_to_compare_are_refused_when_built(family, head):
    with pytest.raises(TypeError, match=f'{head} does not return.*loss_weight=0'):
        distilled(family)
    assert not distilled(family, alpha=0.0).distiller.soft_label.loss_weight


def test_a_head_that_no_reader_reads_is_refused_when_built(monkeypatch):
    from frskd_mm.registry import HEAD_READERS

    readers = HEAD_READERS.module_dict
    others = {name: kind for name, kind in readers.items() if name != 'ProposalReader'}
    monkeypatch.setattr(HEAD_READERS, '_module_dict', others)
    with pytest.raises(TypeError, match=r'StandardRoIHead \(roi_head\).*HeadReader'):
        distilled('faster_rcnn')


@MMDET.register_module()
class SeveralHeads(BaseDetector):
    """A detector in the form of Co-DETR, whose heads of a kind are lists."""

    def __init__(self, backbone, neck, rpn_head, roi_head, bbox_head, train_cfg):
        super().__init__()
        self.backbone = MMDET.build(backbone)
        if neck is not None:
            self.neck = MMDET.build(neck)
        self.rpn_head = MMDET.build(rpn_head)
        self.roi_head = torch.nn.ModuleList(map(MMDET.build, roi_head))
        self.bbox_head = torch.nn.ModuleList(map(MMDET.build, bbox_head))
        self.proposal_cfg = train_cfg.rpn_proposal

    def extract_feat(self, inputs):
        feats = self.backbone(inputs)
        return self.neck(feats) if self.with_neck else feats

    def loss(self, inputs, data_samples):
        feats = self.extract_feat(inputs)
        objects = deepcopy(data_samples)
        for sample in objects:
            sample.gt_instances.labels.zero_()
        losses, proposals = self.rpn_head.loss_and_predict(
            feats, objects, proposal_cfg=self.proposal_cfg
        )
        for i, head in enumerate(self.roi_head):
            found = head.loss(feats, proposals, data_samples)
            losses.update({f'{name}{i}': value for name, value in found.items()})
        for i, head in enumerate(self.bbox_head, len(self.roi_head)):
            found = head.loss(feats, data_samples)
            losses.update({f'{name}{i}': value for name, value in found.items()})
        return losses

    def predict(self, inputs, data_samples):
        raise NotImplementedError

    def _forward(self, inputs, data_samples=None):
        raise NotImplementedError


class TestSeveralHeads:
    @staticmethod
    def student():
        two_stage, dense = student_cfg('faster_rcnn'), student_cfg('atss')
        train_cfg, test_cfg = two_stage.pop('train_cfg'), two_stage.pop('test_cfg')
        two_stage.rpn_head.update(train_cfg=train_cfg.rpn, test_cfg=test_cfg.rpn)
        two_stage.roi_head.update(train_cfg=train_cfg.rcnn, test_cfg=test_cfg.rcnn)
        dense.bbox_head.update(train_cfg=dense.train_cfg, test_cfg=dense.test_cfg)
        two_stage.update(
            type='mmdet.SeveralHeads',
            roi_head=[two_stage.roi_head],
            bbox_head=[dense.bbox_head],
            train_cfg=train_cfg,
        )
        two_stage.pop('data_preprocessor')
        return two_stage

    def build(self, **frskd):
        cfg = dict(student=self.student(), distiller=frskd_cfg(**frskd))
        return MODELS.build(dict(type='frskd_mm.Distilled', **cfg))

    def test_they_are_refused_when_built(self):
        with pytest.raises(
            TypeError, match=r'SeveralHeads has a ATSSHead \(bbox_head\).*loss_weight=0'
        ):
            self.build()

    @pytest.mark.parametrize('width', [1, 2])
    def test_features_alone_are_distilled(self, width):
        """Wider refined maps are brought to the heads' channels."""
        neck = dict(type='frskd_mm.BiFPNc', width=width)
        model = self.build(alpha=0.0, neck=neck).train()
        data = family_batch('faster_rcnn')
        total, log = total_loss(model, data)
        total.backward()
        assert torch.isfinite(total)
        assert log['loss_at'] > 0
        assert log['self_teacher.loss_cls1'] > 0
        assert 'loss_kd' not in log
        twin = model.distiller.self_teacher.twin
        for head in (twin.rpn_head, twin.roi_head, twin.bbox_head):
            assert any(p.grad is not None and p.grad.any() for p in head.parameters())


def test_readers_of_a_cascade_know_their_stages():
    def names(family):
        return [r.name for r in find_readers(MODELS.build(student_cfg(family)))]

    assert names('htc') == ['rpn', 'roi0', 'roi1', 'mask0', 'mask1']
    # SCNet has one mask head, which its last stage trains.
    assert names('scnet') == ['rpn', 'roi0', 'roi1', 'mask1']


def spy_on(monkeypatch, owner, method):
    """Return what a method is given by name and what it returns, call by call."""
    calls, original = [], getattr(owner, method)

    def spied(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        calls.append((kwargs, result))
        return result

    monkeypatch.setattr(owner, method, spied)
    return calls


@pytest.mark.parametrize('family', ['htc', 'scnet', 'pisa', 'ohem', 'grid'])
def test_rows_are_those_that_the_losses_are_of(family, monkeypatch):
    """The box and mask losses are given the rows that are compared."""
    model, data = distilled(family).train(), family_batch(family)
    head = type(model.roi_head)
    boxes = spy_on(monkeypatch, head, 'bbox_loss')
    masks = spy_on(monkeypatch, head, 'mask_loss')
    passes = run_both(model, data)
    compared = {
        reader.name: reader.soft_labels(*passes, data['data_samples'])
        for reader in find_readers(model)
    }
    stages = len(boxes) // 2
    for stage in range(stages):
        found = compared[f'roi{stage}']
        for side, (_, result) in zip(('student', 'teacher'), boxes[stage::stages]):
            assert torch.equal(getattr(found, f'{side}_cls'), result['cls_score'])
    first = stages - len(masks) // 2
    for i in range(len(masks) // 2):
        found = compared[f'mask{first + i}']
        for side, call in zip(('student', 'teacher'), (i, i + len(masks) // 2)):
            predicted = masks[call][1]['mask_preds']
            pixels = predicted.shape[2] * predicted.shape[3]
            rows = getattr(found, f'{side}_cls').reshape(-1, pixels)
            assert len(rows) == len(predicted)
            for row, classes in zip(rows, predicted.flatten(2)):
                assert any(torch.equal(row, one) for one in classes)


def test_the_twin_scores_proposals_before_the_students_grid_head_moves_them(
    monkeypatch,
):
    model, data = distilled('grid').train(), family_batch('grid')
    rois = []
    head = type(model.roi_head)
    original = head._bbox_forward

    def spied(self, x, rois_):
        rois.append(rois_.clone())
        return original(self, x, rois_)

    monkeypatch.setattr(head, '_bbox_forward', spied)
    run_both(model, data)
    assert torch.equal(*rois)


class TestCustomActivations:
    loss = dict(type='mmdet.SeesawLoss', num_classes=NUM_CLASSES)

    def compare(self, ours, theirs, loss_cls, form='softmax'):
        rows = [activated_logits(loss_cls, scores, form) for scores in (ours, theirs)]
        labels = SoftLabels(*rows, form, weight=ours.new_ones(len(ours)))
        return DetSoftLabelLoss()([labels])

    def test_seesaw_compares_what_it_predicts(self):
        loss_cls = MODELS.build(self.loss)
        ours = torch.randn(7, NUM_CLASSES + 2, requires_grad=True)
        theirs = torch.randn(7, NUM_CLASSES + 2)
        value = self.compare(ours, theirs, loss_cls)
        p, q = loss_cls.get_activation(theirs), loss_cls.get_activation(ours)
        expected = (p * (p / q).log()).sum(dim=1).mean()
        torch.testing.assert_close(value, expected)
        value.backward()
        grad = ours.grad.clone()
        ours.grad = None
        expected.backward()
        torch.testing.assert_close(grad, ours.grad)

    def test_equal_activations_give_nothing(self):
        loss_cls = MODELS.build(self.loss)
        theirs = torch.randn(7, NUM_CLASSES + 2)
        ours = theirs.clone()
        ours[:, :-2] += 1.5  # a softmax of its own over the classes,
        ours[:, -2:] -= 0.7  # and one over object or not
        torch.testing.assert_close(
            loss_cls.get_activation(ours), loss_cls.get_activation(theirs)
        )
        assert self.compare(ours, theirs, loss_cls) < 1e-6
        plain = SoftLabels(ours, theirs, 'softmax', weight=ours.new_ones(7))
        assert DetSoftLabelLoss()([plain]) > 0.01  # as one softmax

    @pytest.mark.parametrize('kind', ['CrossEntropyCustomLoss', 'FocalCustomLoss'])
    def test_custom_sigmoids_are_compared_class_by_class(self, kind):
        loss_cls = MODELS.build(
            dict(type=f'mmdet.{kind}', use_sigmoid=True, num_classes=NUM_CLASSES)
        )
        scores = torch.randn(5, NUM_CLASSES)
        logits = activated_logits(loss_cls, scores, 'sigmoid')
        torch.testing.assert_close(logits, scores, atol=1e-4, rtol=1e-4)

    def test_logits_are_compared_as_they_are_without_one(self):
        loss_cls = MODELS.build(dict(type='mmdet.CrossEntropyLoss'))
        scores = torch.randn(5, NUM_CLASSES)
        assert activated_logits(loss_cls, scores, 'softmax') is scores


def test_toods_probabilities_are_compared_as_such():
    model, data = distilled('tood').train(), family_batch('tood')
    passes = run_both(model, data)
    (labels,) = model.distiller.task.soft_labels(*passes, data['data_samples'])
    given = torch.cat(
        [
            level.permute(0, 2, 3, 1).flatten(1, 2)
            for level in passes[0].output('dense')[0]
        ],
        dim=1,
    ).flatten(0, 1)
    torch.testing.assert_close(labels.student_cls.sigmoid(), given)


class TestQueryStageReader(HeadReaderContract):
    component = QueryStageReader
    families = {
        'sparse_rcnn': ['queries0', 'queries1'],
        'queryinst': ['queries0', 'queries1'],
    }
    without = 'cascade_rcnn'

    def expected(self, name, one, student, data_samples):
        """The queries matched to each box, in parts of the image of 64 x 64."""
        rows = {'cls': [], 'bbox': []}
        scores = one.output(name)[0]
        for image, match in enumerate(one.outputs[f'matches{name[-1]}']):
            boxes = one.output(f'boxes{name[-1]}')[image].bboxes
            for box in range(1, match.num_gts + 1):
                query = match.gt_inds.tolist().index(box)
                rows['cls'].append(scores[image, query])
                rows['bbox'].append(boxes[query] / 64)
        assert len(rows['cls']) == 3
        return {kind: torch.stack(found) for kind, found in rows.items()}

    @pytest.mark.parametrize('masks', [False, True])
    def test_the_twin_matches_its_own_queries(self, masks):
        model = distilled('queryinst' if masks else 'sparse_rcnn').train()
        data = family_batch('queryinst' if masks else 'sparse_rcnn')
        names = model.distiller.task.replayed_targets(model)
        assert not names
        student, teacher = run_both(model, data)
        ours, theirs = (
            torch.cat([m.gt_inds for m in one.outputs['matches0']])
            for one in (student, teacher)
        )
        assert (ours > 0).sum() == (theirs > 0).sum() == 3


def matched_masks(one, kind):
    """What a pass says of each object's query, by layer and image."""
    cls, masks = one.output('queries')
    rows = []
    for call, match in enumerate(one.outputs['matches']):
        layer, image = call // 2, call % 2
        for item in range(1, match.num_gts + 1):
            query = match.gt_inds.tolist().index(item)
            source = cls if kind == 'cls' else masks
            rows.append(source[layer][image][query])
    return torch.stack(rows)


class TestMaskQueryReader(HeadReaderContract):
    component = MaskQueryReader
    families = {'mask2former': ['queries'], 'maskformer': ['queries']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        return {'cls': matched_masks(one, 'cls')}


class TestQueryMaskReader(HeadReaderContract):
    component = QueryMaskReader
    families = {'mask2former': ['query_masks'], 'maskformer': ['query_masks']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        return {'cls': matched_masks(one, 'masks').reshape(-1, 1)}


class TestYOLOV3Reader(HeadReaderContract):
    component = YOLOV3Reader
    families = {'yolov3': ['dense']}
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        (levels,) = one.output(name)
        rows = {'cls': [], 'bbox': [], 'quality': []}
        for image in range(len(levels[0])):
            for level in levels:
                for place in level[image].flatten(1).T:
                    for prior in place.reshape(2, 5 + NUM_CLASSES):
                        centre, extent, objectness, cls = prior.split(
                            [2, 2, 1, NUM_CLASSES]
                        )
                        rows['bbox'].append(torch.cat([centre.sigmoid(), extent]))
                        rows['quality'].append(objectness[0])
                        rows['cls'].append(cls)
        return {kind: torch.stack(found) for kind, found in rows.items()}


class TestGridReader(HeadReaderContract):
    component = GridReader
    families = dict.fromkeys(('solo', 'decoupled_solo', 'solov2'), ['cells'])
    without = 'retinanet'

    def expected(self, name, one, student, data_samples):
        kinds = one.output(name)
        levels = next(k for k in kinds if k[0].shape[1:] == (NUM_CLASSES, 6, 6))
        rows = [
            place
            for image in range(2)
            for level in levels
            for place in level[image].flatten(1).T
        ]
        return {'cls': torch.stack(rows)}
