"""LGD's self-teacher against its source, box by box and image by image."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

pytest.importorskip('mmdet')

from test_detection.det_toys import family_batch, run_both, student_cfg
from test_models.test_distillers.test_dense_prediction import student_of
from toys import toy_student_cfg

from frskd_mm.engine.methods import read_method
from frskd_mm.models import LGDGuidance, LGDRefinement
from frskd_mm.models.lgd import cells_inside

CLASSES, CHANNELS = 3, 16
SIZES = [(8, 10), (4, 5)]
IMAGE = (64, 80)
BOXES = [
    torch.tensor([[4.0, 6, 40, 44], [30, 20, 90, 60], [9, 9, 9, 30]]),
    torch.tensor([[10.0, 10, 30, 34]]),
]
LABELS = [torch.tensor([2, 0, 1]), torch.tensor([1])]
LGD = dict(
    type='frskd_mm.FRSKD',
    guidance=dict(type='frskd_mm.LGDGuidance'),
    neck=dict(type='frskd_mm.LGDRefinement'),
    shared_head=True,
    soft_label=dict(type='frskd_mm.DetSoftLabelLoss', loss_weight=0.0),
    feature_loss=dict(type='frskd_mm.LGDLoss'),
)


def norm(values):
    """A layer norm without parameters over one vector."""
    return (values - values.mean()) / (values.var(unbiased=False) + 1e-5).sqrt()


def dense(layer, vector):
    return layer.weight @ vector + layer.bias


def transformed(module, point):
    hidden = point
    for layer in module.layers:
        hidden = norm(dense(layer, hidden)).clamp(min=0)
    return point @ dense(module.matrix, hidden).view(len(point), len(point))


def descriptor(box, label):
    height, width = IMAGE
    x1, y1, x2, y2 = box
    hot = [1.0 if label == c else 0.0 for c in range(CLASSES)]
    values = [x1 / width, y1 / height, x2 / width, y2 / height, *hot]
    return torch.tensor(values) * 2 - 1


def clipped(box):
    height, width = IMAGE
    limits = (width - 1, height - 1, width - 1, height - 1)
    return [min(max(side, 0), limit) for side, limit in zip(box, limits)]


def plain_encoder(encoder, boxes, labels):
    """One image's embeddings."""
    local = [
        transformed(
            encoder.feat_transform,
            norm(
                dense(
                    encoder.local,
                    transformed(encoder.transform, descriptor(box, label)),
                )
            ).clamp(min=0),
        )
        for box, label in zip(boxes, labels)
    ]
    wide = [
        norm(dense(encoder.wide, norm(dense(encoder.middle, x)).clamp(min=0))).clamp(
            min=0
        )
        for x in local
    ]
    joined = torch.stack(wide).max(dim=0).values
    return [
        norm(dense(encoder.joint, torch.cat([x, joined]))).clamp(min=0) for x in local
    ]


def plain_inside(box, size):
    rows, columns = size
    x1, x2 = (side * columns / IMAGE[1] for side in box[::2])
    y1, y2 = (side * rows / IMAGE[0] for side in box[1::2])
    inside = torch.zeros(rows, columns)
    for y in range(rows):
        for x in range(columns):
            if x2 > x1 and y2 > y1:
                near_y = abs((y1 + y2) / 2 - y) / (y2 - y1) <= 0.5
                near_x = abs((x1 + x2) / 2 - x) / (x2 - x1) <= 0.5
                inside[y, x] = float(near_y and near_x)
    return inside


def plain_level(guidance, feat, boxes, labels):
    """One image's map (C, H, W) of one level."""
    size = tuple(feat.shape[1:])
    boxes = [clipped(box) for box in [*boxes.tolist(), [0, 0, IMAGE[1], IMAGE[0]]]]
    labels = [*labels.tolist(), -1]
    embedded = [
        norm(dense(guidance.label_proj, e)).clamp(min=0)
        for e in plain_encoder(guidance.encoder, boxes, labels)
    ]
    projected = guidance.feat_proj(feat[None])[0]
    projected = norm(projected.flatten()).view_as(projected).clamp(min=0)
    inside = [plain_inside(box, size) for box in boxes]
    queries = [
        (projected * cells).sum(dim=(1, 2)) / max(cells.sum().item(), 1.0)
        for cells in inside
    ]
    keys = torch.stack(embedded)[:, None]
    answers = [
        guidance.attention(query[None, None], keys, keys)[0][0, 0] for query in queries
    ]
    drawn = torch.zeros_like(feat)
    for answer, cells in zip(answers[:-1], inside):
        drawn += dense(guidance.object_proj, answer)[:, None, None] * cells
    context = dense(guidance.context_proj, answers[-1])
    return (guidance.object_conv(drawn[None])[0] + context[:, None, None]).clamp(min=0)


@pytest.fixture
def guidance():
    torch.manual_seed(0)
    return LGDGuidance([CHANNELS] * 2, CLASSES, num_heads=4).double()


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_it_is_that_of_the_source(guidance):
    feats = [torch.randn(2, CHANNELS, *size) for size in SIZES]
    boxes = guidance.draw_boxes(BOXES, LABELS, CLASSES, IMAGE, SIZES)
    found = guidance(feats, boxes._replace(sides=boxes.sides.double()))
    for level, maps in enumerate(found):
        for image in range(2):
            expected = plain_level(
                guidance, feats[level][image], BOXES[image], LABELS[image]
            )
            torch.testing.assert_close(maps[image], expected)


def test_cells_are_those_of_the_source(guidance):
    boxes = guidance.draw_boxes(BOXES, LABELS, CLASSES, IMAGE, SIZES)
    all_boxes = [*BOXES[0].tolist(), [0, 0, 80, 64], *BOXES[1].tolist(), [0, 0, 80, 64]]
    for size in SIZES:
        found = cells_inside(boxes, size)
        for row, box in zip(found, all_boxes):
            torch.testing.assert_close(
                row.double().view(size), plain_inside(clipped(box), size)
            )


def test_a_map_of_more_cells_than_fp16_counts(guidance):
    """P2 of an 800x1333 image has 67,200, which was inf in half precision."""
    guidance = guidance.float()
    # One channel far from the others, so that its sum is as large.
    guidance.feat_proj.bias.data[0] = 4.0
    size = (200, 336)
    image = tuple(4 * side for side in size)
    boxes = guidance.draw_boxes(BOXES[:1], LABELS[:1], CLASSES, image, [size])
    feat = torch.randn(1, CHANNELS, *size, dtype=torch.float32)
    (expected,) = guidance([feat], boxes)
    with torch.autocast('cpu', dtype=torch.float16):
        (found,) = guidance([feat], boxes)
    torch.testing.assert_close(found.float(), expected, rtol=0.0, atol=0.01)


def test_refinement_is_three_convolutions_with_layer_norms():
    torch.manual_seed(0)
    neck = LGDRefinement([CHANNELS] * 2)
    feats = [torch.randn(2, CHANNELS, *size) for size in SIZES]
    for feat, found in zip(feats, neck(feats)):
        expected = feat
        for index, conv in enumerate(neck.convs):
            expected = conv(expected)
            expected = torch.stack([norm(x.flatten()).view_as(x) for x in expected])
            expected = F.relu(expected) if index < 2 else expected
        torch.testing.assert_close(found, expected)


def test_images_without_boxes_have_their_context(guidance):
    boxes = [torch.zeros(0, 4), BOXES[1]]
    labels = [torch.zeros(0, dtype=torch.long), LABELS[1]]
    drawn = guidance.draw_boxes(boxes, labels, CLASSES, IMAGE, SIZES)
    feats = [torch.randn(2, CHANNELS, *size) for size in SIZES]
    found = guidance(feats, drawn._replace(sides=drawn.sides.double()))
    expected = plain_level(guidance, feats[0][0], boxes[0], labels[0])
    torch.testing.assert_close(found[0][0], expected)


def lgd(family):
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    cfg = dict(type='frskd_mm.Distilled', student=student_cfg(family), distiller=LGD)
    model = MODELS.build(cfg)
    model.init_weights()
    return model


@pytest.mark.parametrize(
    'family',
    [
        *('retinanet', 'fcos', 'gfl', 'atss', 'yolox', 'rtmdet'),
        *('faster_rcnn', 'mask_rcnn', 'cascade_rcnn', 'deformable_detr', 'dino'),
    ],
)
def test_detectors_train(family):
    model = lgd(family)
    data = family_batch(family)
    losses = model.loss(data['inputs'], data['data_samples'])
    assert losses['loss_lgd'] > 0
    total, _ = model.parse_losses(losses)
    total.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    assert not without


def test_what_the_self_teacher_says_depends_on_the_labels():
    model = lgd('retinanet')
    data = family_batch('retinanet')
    _, before = run_both(model, data)
    for sample in data['data_samples']:
        sample.gt_instances.labels = (sample.gt_instances.labels + 1) % 3
    _, after = run_both(model, data)
    assert not torch.equal(before.feats[0], after.feats[0])


def test_it_cannot_predict_without_labels():
    model = lgd('retinanet').eval()
    data = family_batch('retinanet')
    with model.as_self_teacher(), pytest.raises(TypeError, match='without them'):
        model.predict(data['inputs'], data['data_samples'])


def test_many_classes_are_warned_of(monkeypatch):
    """The encoder's matrices have (4 + C) ** 2 entries: 373 M weights for LVIS."""
    found = []
    monkeypatch.setattr(
        'frskd_mm.models.lgd.print_log', lambda text, **_: found.append(text)
    )
    with torch.device('meta'):
        LGDGuidance([CHANNELS], 400)
        assert not found
        LGDGuidance([CHANNELS], 1203)
    (text,) = found
    assert '1207 x 1207 for each box' in text
    assert '373 million weights' in text
    assert '--method label-guided' in text


class TestRefusals:
    @pytest.mark.parametrize('task', ['segmentation', 'classification'])
    def test_students_without_boxes(self, task):
        torch.set_default_dtype(torch.float32)
        student = student_of(task) if task == 'segmentation' else toy_student_cfg()
        cfg = {**LGD, 'neck': dict(type='frskd_mm.BiFPNc', width=1)}
        with pytest.raises(TypeError, match='encodes boxes'):
            MODELS.build(
                dict(type='frskd_mm.Distilled', student=student, distiller=cfg)
            )

    def test_maps_of_several_widths(self):
        with pytest.raises(ValueError, match=r"\[16, 32\].*source='neck'"):
            LGDRefinement([16, 32])

    @pytest.mark.parametrize(
        ('family', 'source'), [('yolov3', 'neck'), ('mask2former', 'backbone')]
    )
    def test_students_without_an_fpn_are_told_of_label_guidance(self, family, source):
        torch.set_default_dtype(torch.float32)
        cfg = dict(type='frskd_mm.Distilled', student=student_cfg(family))
        with pytest.raises(ValueError, match='--method label-guided'):
            MODELS.build({**cfg, 'distiller': {**LGD, 'source': source}})
        guided = read_method('label-guided', 'det').distiller
        MODELS.build({**cfg, 'distiller': guided})

    def test_channels_that_do_not_split(self):
        with pytest.raises(ValueError, match='num_heads=8.* 12 channels'):
            LGDGuidance([12, 12], CLASSES)


def test_the_encoder_takes_boxes_in_a_model_cast_to_bf16():
    guidance = LGDGuidance(in_channels=[CHANNELS] * 2, num_classes=CLASSES).bfloat16()
    boxes = guidance.draw_boxes(BOXES, LABELS, CLASSES, IMAGE, SIZES)
    assert guidance.encoder(boxes).dtype == torch.bfloat16
