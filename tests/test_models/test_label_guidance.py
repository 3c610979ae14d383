"""A self-teacher that sees the ground truth."""

import pytest
import torch
from mmengine.registry import MODELS
from test_models.test_distillers.test_dense_prediction import (
    batch_of,
    parts_reached,
    student_of,
)
from toys import toy_batch, toy_distilled

from frskd_mm.models import LabelGuidance
from frskd_mm.models.label_guidance import draw_boxes, draw_label_maps, jitter_boxes

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

BOXES = [
    torch.tensor([[0.0, 0, 32, 16], [4.0, 4, 12, 12], [9.0, 9, 9, 30]]),
    torch.zeros(0, 4),
]
LABELS = [torch.tensor([2, 0, 1]), torch.zeros(0, dtype=torch.long)]


def plain_maps(boxes, labels, num_classes, image, size):
    """One image's maps, cell by cell and box by box."""
    rows, columns = size
    maps = torch.zeros(num_classes + 5, rows, columns)
    for row in range(rows):
        for column in range(columns):
            y = (row + 0.5) * image[0] / rows
            x = (column + 0.5) * image[1] / columns
            best = None
            for box, label in zip(boxes.tolist(), labels.tolist()):
                x1, y1, x2, y2 = box
                if x1 < x < x2 and y1 < y < y2:
                    area = (x2 - x1) * (y2 - y1)
                    if best is None or area < best[0]:
                        best = (area, box, label)
            if best is None:
                continue
            _, (x1, y1, x2, y2), label = best
            maps[label, row, column] = 1
            width, height = x2 - x1, y2 - y1
            sides = [(x - x1) / width, (y - y1) / height]
            sides += [(x2 - x) / width, (y2 - y) / height]
            maps[num_classes:, row, column] = torch.tensor([1.0, *sides])
    return maps


def test_boxes_are_drawn_cell_by_cell():
    sizes = [(8, 12), (3, 5)]
    drawn = draw_boxes(BOXES, LABELS, 3, image_size=(32, 48), sizes=sizes)
    for maps, size in zip(drawn, sizes):
        assert maps.shape == (2, 8, *size)
        for image in range(2):
            expected = plain_maps(BOXES[image], LABELS[image], 3, (32, 48), size)
            torch.testing.assert_close(maps[image], expected)
    assert drawn[0][0, :3].sum(dim=0).max() == 1
    without = draw_boxes(BOXES, LABELS, 0, image_size=(32, 48), sizes=sizes)
    torch.testing.assert_close(without[0], drawn[0][:, 3:])


def test_a_batch_without_boxes_is_empty():
    drawn = draw_boxes(BOXES[1:] * 2, LABELS[1:] * 2, 3, (32, 32), [(4, 4)])
    assert drawn[0].shape == (2, 8, 4, 4)
    assert not drawn[0].any()


def test_jittered_boxes_stay_boxes_in_the_image():
    torch.manual_seed(0)
    boxes = torch.tensor([[10.0, 20, 30, 40]]).repeat(5000, 1)
    moved = jitter_boxes(boxes, 0.1, (44, 64))
    assert (moved[:, :2] <= moved[:, 2:]).all()
    assert moved[:, 3].max() <= 44
    assert (moved[:, 0] - boxes[:, 0]).std().item() == pytest.approx(2.0, rel=0.1)
    torch.testing.assert_close(jitter_boxes(boxes, 0.0, (44, 64)), boxes)


def test_label_maps_are_drawn_without_ignored_and_dropped_cells():
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[:, :2] = 255
    (maps,) = draw_label_maps(labels, 3, 255, [(4, 4)], drop=0.0, identity=True)
    for n in range(2):
        for y in range(4):
            for x in range(4):
                label = int(labels[n, 2 * y + 1, 2 * x + 1])
                expected = [float(label == c) for c in range(3)]
                assert maps[n, :, y, x].tolist() == expected
    (none,) = draw_label_maps(labels, 3, 255, [(4, 4)], drop=1.0, identity=True)
    assert not none.any()
    (values,) = draw_label_maps(labels, 3, 255, [(4, 4)], drop=0.0, identity=False)
    assert values.shape == (2, 1, 4, 4)
    image = (maps[0].argmax(dim=0) + 1) * maps[0].any(dim=0)
    for label in (1, 2, 3):
        assert len(values[0, 0][image == label].unique()) == 1
    assert not values[0, 0][image == 0].any()


def test_it_begins_unguided_and_learns_both_convolutions():
    guidance = LabelGuidance([4, 6], num_maps=3)
    feats = [torch.randn(2, 4, 5, 5), torch.randn(2, 6, 3, 3)]
    drawn = [torch.rand(2, 3, 5, 5), torch.rand(2, 3, 3, 3)]
    optimizer = torch.optim.SGD(guidance.parameters(), lr=0.1)
    for ours, feat in zip(guidance(feats, drawn), feats):
        torch.testing.assert_close(ours, feat)
    for _ in range(2):
        optimizer.zero_grad()
        sum(out.square().sum() for out in guidance(feats, drawn)).backward()
        optimizer.step()
    assert all(param.grad.abs().sum() > 0 for param in guidance.parameters())


def guided(task, **settings):
    soft_label = 'PixelSoftLabelLoss' if task == 'segmentation' else 'DetSoftLabelLoss'
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=student_of(task),
            distiller=dict(
                type='frskd_mm.FRSKD',
                neck=dict(type='frskd_mm.BiFPNc', width=1),
                soft_label=dict(type=f'frskd_mm.{soft_label}'),
                feature_loss=dict(type='frskd_mm.PKDLoss'),
                guidance=settings,
            ),
        )
    )
    model.init_weights()
    for embedding in model.distiller.guidance.embeddings:
        torch.nn.init.normal_(embedding[2].weight)
    return model.train()


@pytest.mark.parametrize('identity', [True, False])
@pytest.mark.parametrize('task', ['segmentation', 'retinanet', 'faster_rcnn'])
def test_the_self_teacher_learns_from_it_and_the_student_does_not(task, identity):
    model = guided(task, identity=identity, drop=0.0)
    losses = model.loss(**batch_of(task))
    own = {k: v for k, v in losses.items() if k.startswith('self_teacher.')}
    reached = parts_reached(model, model.parse_losses(own)[0])
    assert any(part.startswith('guidance') for part in reached)
    assert any(part.startswith('self_teacher') for part in reached)
    assert 'backbone' not in reached
    reached = parts_reached(model, losses['loss_pkd'])
    assert reached <= {'backbone', 'neck'}


@pytest.mark.parametrize('task', ['segmentation', 'retinanet'])
def test_what_the_self_teacher_says_depends_on_the_labels(task):
    model = guided(task, drop=0.0, jitter=0.0)
    data, feats = batch_of(task), []
    for drop in (0.0, 1.0):
        model.distiller.guidance.drop = drop
        student = model.distiller.run_student(
            model, **data, source=model.distiller.source
        )
        teacher = model.distiller.run_self_teacher(model, student, data['data_samples'])
        feats.append(teacher.feats[0])
    assert not torch.allclose(*feats)


def test_nothing_of_it_is_there_in_use():
    model = guided('segmentation')
    data = batch_of('segmentation')
    model.eval()
    for sample in data['data_samples']:
        sample.set_metainfo(dict(ori_shape=(64, 64)))
    with torch.no_grad(), model.as_self_teacher():
        assert len(model.predict(data['inputs'], data['data_samples'])) == 2


def test_classifiers_are_refused():
    with pytest.raises(TypeError, match='Remove guidance'):
        toy_distilled(guidance={})


@pytest.mark.parametrize('task', ['segmentation', 'retinanet'])
def test_missing_labels_are_named(task):
    model, data = guided(task), batch_of(task)
    samples = data['data_samples']
    student = model.distiller.run_student(model, **data, source=model.distiller.source)
    for sample in samples:
        delattr(sample, 'gt_sem_seg' if task == 'segmentation' else 'gt_instances')
    with pytest.raises(ValueError, match='remove guidance from the distiller'):
        model.distiller.run_self_teacher(model, student, samples)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(drop=1.5), 'drop of LabelGuidance'),
        (dict(jitter=-0.1), 'jitter of LabelGuidance'),
        (dict(embed_channels=0), 'embed_channels of LabelGuidance'),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        guided('segmentation', **settings)


def test_the_published_method_has_none():
    assert toy_distilled().distiller.guidance is None
    assert toy_distilled().loss(**toy_batch())
