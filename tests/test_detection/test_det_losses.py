"""The detectors' losses against their equations, place by place."""

import math

import pytest
import torch

from frskd_mm.models.losses import (
    AttentionTransferLoss,
    DetAttentionTransferLoss,
    DetSoftLabelLoss,
    SoftLabels,
)
from frskd_mm.models.losses.foreground import confidence_weight, inside_boxes
from frskd_mm.models.losses.soft_label_loss import distance_iou_loss
from frskd_mm.models.losses.weighted_mean import weighted_mean


def sigmoid(z):
    return 1.0 / (1.0 + math.exp(-z))


def binary_kl(student, teacher, temperature):
    p, q = sigmoid(teacher / temperature), sigmoid(student / temperature)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def softmax_kl(student, teacher, temperature):
    p, q = (
        [math.exp(z / temperature) for z in logits] for logits in (teacher, student)
    )
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    return sum(a * math.log(a / b) for a, b in zip(p, q))


def plain_loss(labels, temperature, bbox_weight):
    """The docstring of DetSoftLabelLoss, in loops over Python numbers."""
    num_places = len(labels.student_cls)
    weight = labels.weight.tolist() if labels.weight is not None else [1] * num_places
    total = 0.0
    for place in range(num_places):
        student = labels.student_cls[place].tolist()
        teacher = labels.teacher_cls[place].tolist()
        if labels.cls_form == 'softmax':
            value = softmax_kl(student, teacher, temperature)
        else:
            value = 0.0
            for s, t in zip(student, teacher):
                term = binary_kl(s, t, temperature)
                if labels.cls_form == 'quality':
                    term *= (sigmoid(t) - sigmoid(s)) ** 2
                value += term
        if labels.student_quality is not None:
            value += binary_kl(
                labels.student_quality[place].item(),
                labels.teacher_quality[place].item(),
                temperature,
            )
        total += weight[place] * temperature**2 * value
    total /= sum(weight)
    if labels.student_bbox is None:
        return total
    weight = labels.bbox_weight.tolist()
    boxes = 0.0
    for place in range(num_places):
        student = labels.student_bbox[place].tolist()
        teacher = labels.teacher_bbox[place].tolist()
        if labels.bbox_form == 'distribution':
            sides = [softmax_kl(s, t, temperature) for s, t in zip(student, teacher)]
            boxes += weight[place] * temperature**2 * sum(sides) / 4
        elif labels.bbox_form == 'offset':
            sides = [abs(s - t) for s, t in zip(student, teacher)]
            boxes += weight[place] * bbox_weight * sum(sides) / 4
        else:
            low = [min(s, t) for s, t in zip(student, teacher)]
            overlap = (low[0] + low[2]) * (low[1] + low[3])
            areas = [(b[0] + b[2]) * (b[1] + b[3]) for b in (student, teacher)]
            iou = overlap / (sum(areas) - overlap)
            boxes += weight[place] * bbox_weight * (1 - iou)
    return total + boxes / sum(weight)


def some_labels(cls_form='sigmoid', bbox_form=None, quality=False, weighted=False):
    torch.manual_seed(1)
    places = 7
    labels = SoftLabels(
        student_cls=(3 * torch.randn(places, 5)).requires_grad_(),
        teacher_cls=3 * torch.randn(places, 5),
        cls_form=cls_form,
        weight=torch.rand(places) if weighted else None,
    )
    if quality:
        labels = labels._replace(
            student_quality=torch.randn(places), teacher_quality=torch.randn(places)
        )
    if bbox_form:
        shape = (places, 4, 6) if bbox_form == 'distribution' else (places, 4)
        boxes = [torch.randn(shape) for _ in range(2)]
        if bbox_form == 'distance':
            boxes = [box.abs() + 0.1 for box in boxes]
        labels = labels._replace(
            student_bbox=boxes[0].requires_grad_(),
            teacher_bbox=boxes[1],
            bbox_form=bbox_form,
            bbox_weight=torch.rand(places),
        )
    return labels


@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('quality', [False, True])
@pytest.mark.parametrize('cls_form', ['sigmoid', 'softmax', 'quality'])
def test_class_terms_equal_the_equation(cls_form, quality, weighted, temperature):
    labels = some_labels(cls_form, quality=quality, weighted=weighted)
    loss = DetSoftLabelLoss(temperature=temperature, loss_weight=2.5)([labels])
    expected = 2.5 * plain_loss(labels, temperature, 0.0)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('bbox_form', ['offset', 'distance', 'distribution'])
def test_box_terms_equal_the_equation(bbox_form):
    labels = some_labels(bbox_form=bbox_form, weighted=True)
    loss = DetSoftLabelLoss(temperature=2.0, bbox_weight=0.7)([labels])
    assert loss.item() == pytest.approx(plain_loss(labels, 2.0, 0.7), rel=1e-4)


@pytest.mark.parametrize('bbox_form', ['offset', 'distance'])
def test_box_regression_is_off_by_default(bbox_form):
    labels = some_labels(bbox_form=bbox_form)
    DetSoftLabelLoss()([labels]).backward()
    assert labels.student_bbox.grad is None
    assert labels.student_cls.grad.abs().sum() > 0


def test_terms_of_heads_are_summed():
    first, second = some_labels('softmax'), some_labels(quality=True)
    loss = DetSoftLabelLoss()
    torch.testing.assert_close(loss([first, second]), loss([first]) + loss([second]))


@pytest.mark.parametrize('cls_form', ['sigmoid', 'softmax', 'quality'])
def test_equal_outputs_give_zero_value_and_gradient(cls_form):
    labels = some_labels(cls_form)
    labels = labels._replace(teacher_cls=labels.student_cls.detach().clone())
    loss = DetSoftLabelLoss()([labels])
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert labels.student_cls.grad.abs().max() < 1e-6


def test_teacher_gets_no_gradient():
    labels = some_labels(bbox_form='distribution')
    labels.teacher_cls.requires_grad_()
    labels.teacher_bbox.requires_grad_()
    DetSoftLabelLoss()([labels]).backward()
    assert labels.teacher_cls.grad is None
    assert labels.teacher_bbox.grad is None
    assert labels.student_bbox.grad.abs().sum() > 0


@pytest.mark.parametrize('places', ['none', 'unweighted'])
def test_no_place_that_counts_gives_zero(places):
    labels = some_labels()
    if places == 'none':
        empty = torch.zeros(0, 5)
        labels = labels._replace(
            student_cls=empty.clone().requires_grad_(), teacher_cls=empty
        )
    else:
        labels = labels._replace(weight=torch.zeros(7))
    loss = DetSoftLabelLoss()([labels])
    loss.backward()
    assert loss.item() == 0.0
    assert not labels.student_cls.grad.abs().any()


def test_extreme_and_half_precision_logits_are_finite():
    labels = some_labels()._replace(
        student_cls=torch.full((7, 5), 300.0, dtype=torch.bfloat16).requires_grad_(),
        teacher_cls=torch.full((7, 5), -300.0, dtype=torch.bfloat16),
    )
    loss = DetSoftLabelLoss()([labels])
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(labels.student_cls.grad).all()


def test_a_form_can_be_imposed():
    labels = some_labels('quality')
    as_sigmoid = DetSoftLabelLoss(cls='sigmoid')([labels])
    torch.testing.assert_close(
        as_sigmoid, DetSoftLabelLoss()([labels._replace(cls_form='sigmoid')])
    )


def test_different_shapes_are_refused():
    labels = some_labels()
    with pytest.raises(ValueError, match='twin=dict'):
        DetSoftLabelLoss()([labels._replace(teacher_cls=torch.zeros(7, 4))])


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(temperature=0.0), 'temperature must be positive'),
        (dict(cls='focal'), "'sigmoid', 'softmax', 'quality'"),
        (dict(bbox_weight=-1.0), 'bbox_weight must be >= 0'),
        (dict(foreground='masks'), "'confidence', 'boxes'"),
    ],
)
def test_wrong_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        DetSoftLabelLoss(**kwargs)


def test_distance_iou_of_known_boxes():
    student = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0] * 4])
    teacher = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0] * 4])
    torch.testing.assert_close(
        distance_iou_loss(student, teacher), torch.tensor([0.0, 0.75, 1.0])
    )


def test_inside_boxes_takes_cell_centres():
    boxes = [
        torch.tensor([[0.0, 0.0, 16.0, 8.0], [20.0, 20.0, 20.0, 28.0]]),
        torch.zeros(0, 4),
    ]
    inside = inside_boxes(boxes, image_size=(32, 32), map_size=(4, 4))
    expected = torch.zeros(2, 4, 4, dtype=torch.bool)
    expected[0, 0, :2] = True  # centres at 4, 12 in x and 4 in y
    assert torch.equal(inside, expected)


def test_confidence_is_the_squared_score():
    cls = torch.tensor([[0.0, 2.0], [-5.0, -6.0]])
    quality = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(
        confidence_weight(cls, quality),
        torch.tensor([(sigmoid(2.0) * sigmoid(1.0)) ** 2, (sigmoid(-5.0) * 0.5) ** 2]),
    )
    background = torch.tensor([[0.0, 0.0, 0.0]])
    torch.testing.assert_close(
        confidence_weight(background, softmax=True), torch.tensor([(2 / 3) ** 2])
    )


def test_weighted_mean_ignores_weightless_places():
    values = torch.tensor([1.0, 2.0, 6.0])
    assert weighted_mean(values, torch.tensor([1.0, 0.0, 3.0])).item() == 19 / 4
    assert weighted_mean(values).item() == 3.0


def feature_maps(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, s, s + 1, generator=generator) for s in (6, 3)]


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'norm'])
def test_attention_with_weight_one_is_the_plain_one(reduction):
    student, teacher = feature_maps(0), feature_maps(1)
    ones = [torch.ones(2, *feat.shape[2:]) for feat in student]
    plain = AttentionTransferLoss(loss_weight=3.0, reduction=reduction)
    weighted = DetAttentionTransferLoss(loss_weight=3.0, reduction=reduction)
    expected = plain(student, teacher)
    torch.testing.assert_close(weighted(student, teacher), expected)
    torch.testing.assert_close(weighted(student, teacher, ones), expected)


@pytest.mark.parametrize('reduction', ['mean', 'sum', 'norm'])
def test_weighted_attention_equals_the_equation(reduction):
    student, teacher = feature_maps(0), feature_maps(1)
    weights = [torch.rand(2, *feat.shape[2:]) for feat in student]
    expected = 0.0
    for s, t, w in zip(student, teacher, weights):
        squares = []
        for image in range(2):
            a, b = ((x[image] ** 2).mean(dim=0) for x in (s, t))
            d = a / (a**2).sum().sqrt() - b / (b**2).sum().sqrt()
            squares.append((w[image] * d**2).sum())
        if reduction == 'mean':
            expected += sum(squares) / w.sum()
        elif reduction == 'sum':
            expected += sum(squares) / 2
        else:
            expected += sum(square.sqrt() for square in squares) / 2
    loss = DetAttentionTransferLoss(loss_weight=2.0, reduction=reduction)
    torch.testing.assert_close(loss(student, teacher, weights), 2.0 * expected)
