"""The detectors' losses against their equations, place by place."""

import math
from itertools import product
from typing import NamedTuple, Optional

import pytest
import torch
from contracts import Case, FeatureLossContract, LossContract, Pair

from frskd_mm.models.losses import (
    AttentionTransferLoss,
    DetAttentionTransferLoss,
    DetSoftLabelLoss,
    SoftLabels,
)
from frskd_mm.models.losses.foreground import confidence_weight, inside_boxes
from frskd_mm.models.losses.soft_label_loss import (
    distance_iou_loss,
    rotated_distance_loss,
)
from frskd_mm.models.losses.weighted_mean import weighted_mean


def sigmoid(z):
    return 1.0 / (1.0 + math.exp(-z))


def divide(z, temperature):
    return torch.exp(z / temperature) / torch.exp(z / temperature).sum()


def binary_kl(student, teacher, temperature):
    p, q = (1.0 / (1.0 + torch.exp(-z / temperature)) for z in (teacher, student))
    return p * torch.log(p / q) + (1 - p) * torch.log((1 - p) / (1 - q))


def softmax_kl(student, teacher, temperature):
    p, q = (divide(logits, temperature) for logits in (teacher, student))
    return sum(a * torch.log(a / b) for a, b in zip(p, q))


def plain_loss(labels, temperature, bbox_weight):
    """The docstring of DetSoftLabelLoss, in loops over places and classes."""
    labels = labels._replace(
        **{
            name: value.detach()
            for name, value in labels._asdict().items()
            if name.startswith('teacher_') and value is not None
        }
    )
    num_places = len(labels.student_cls)
    weight = [1] * num_places if labels.weight is None else labels.weight
    total = 0.0
    for place in range(num_places):
        student, teacher = labels.student_cls[place], labels.teacher_cls[place]
        if labels.cls_form == 'softmax':
            value = softmax_kl(student, teacher, temperature)
        else:
            value = 0.0
            for s, t in zip(student, teacher):
                term = binary_kl(s, t, temperature)
                if labels.cls_form == 'quality':
                    term = (
                        term * (1 / (1 + torch.exp(-t)) - 1 / (1 + torch.exp(-s))) ** 2
                    )
                value = value + term
        if labels.student_quality is not None:
            value = value + binary_kl(
                labels.student_quality[place],
                labels.teacher_quality[place],
                temperature,
            )
        total = total + weight[place] * temperature**2 * value
    total = total / sum(weight)
    if labels.student_bbox is None:
        return total
    weight = labels.bbox_weight
    boxes = 0.0
    for place in range(num_places):
        student, teacher = labels.student_bbox[place], labels.teacher_bbox[place]
        if labels.bbox_form == 'distribution':
            sides = [softmax_kl(s, t, temperature) for s, t in zip(student, teacher)]
            value = temperature**2 * sum(sides) / 4
        elif labels.bbox_form == 'offset':
            value = bbox_weight * sum(abs(s - t) for s, t in zip(student, teacher)) / 4
        else:
            low = [min(s, t) for s, t in zip(student, teacher)]
            overlap = (low[0] + low[2]) * (low[1] + low[3])
            areas = [(b[0] + b[2]) * (b[1] + b[3]) for b in (student, teacher)]
            value = bbox_weight * (1 - overlap / (sum(areas) - overlap))
        if labels.bbox_form == 'rotated':
            value = value + bbox_weight * abs(torch.sin(student[4] - teacher[4]))
        boxes = boxes + weight[place] * value
    return total + boxes / sum(weight)


class Head(NamedTuple):
    """Which outputs a head has, and whether its places have weights."""

    cls_form: str = 'sigmoid'
    bbox_form: Optional[str] = None
    quality: bool = False
    weighted: bool = False


class TestDetSoftLabelLoss(LossContract):
    component = DetSoftLabelLoss
    cases = {
        **{
            f'{form}-{quality}-{weighted}-{temperature}': Case(
                dict(temperature=temperature, loss_weight=2.5),
                Head(form, None, bool(quality), bool(weighted)),
            )
            for form, quality, weighted, temperature in product(
                ('sigmoid', 'softmax', 'quality'),
                ('', 'quality'),
                ('', 'weighted'),
                (0.5, 1.0, 4.0),
            )
        },
        **{
            form: Case(
                dict(temperature=2.0, bbox_weight=0.7),
                Head(bbox_form=form, quality=True, weighted=True),
            )
            for form in ('offset', 'distance', 'rotated', 'distribution')
        },
    }
    main = ['quality-quality-weighted-4.0', 'softmax---1.0', 'distance', 'distribution']
    wrong_settings = [
        (dict(temperature=0.0), 'temperature of .* must be positive'),
        (dict(cls='focal'), "'sigmoid', 'quality'|'softmax', 'quality'"),
        (dict(bbox_weight=-1.0), 'bbox_weight of .* must be >= 0'),
        (dict(foreground='masks'), "'confidence', 'boxes'"),
    ]
    wrong_inputs = [('cls', 'twin=dict')]

    def pair(self, case, device='cpu'):
        labels = some_labels(*case.data)
        parts = {'student': {}, 'teacher': {}, 'options': {}}
        for name, value in labels._asdict().items():
            side, _, kind = name.partition('_')
            if isinstance(value, torch.Tensor):
                value = value.detach().double().to(device)
            if side not in parts:
                parts['options'][name] = value
            elif value is not None:
                parts[side][kind] = value.requires_grad_()
        return Pair(**parts)

    def labels(self, pair):
        return SoftLabels(
            **{f'student_{name}': value for name, value in pair.student.items()},
            **{f'teacher_{name}': value for name, value in pair.teacher.items()},
            **pair.options,
        )

    def call(self, loss, pair):
        return loss([self.labels(pair)])

    def expected(self, loss, pair):
        return loss.loss_weight * plain_loss(
            self.labels(pair), loss.temperature, loss.bbox_weight
        )

    def spoil(self, pair, name):
        teacher = {**pair.teacher, name: pair.teacher[name][:, :-1]}
        return pair._replace(teacher=teacher)


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
        columns = {'distribution': (4, 6), 'rotated': (5,)}.get(bbox_form, (4,))
        boxes = [torch.randn(places, *columns) for _ in range(2)]
        if bbox_form in ('distance', 'rotated'):
            boxes = [box.abs() + 0.1 for box in boxes]
        labels = labels._replace(
            student_bbox=boxes[0].requires_grad_(),
            teacher_bbox=boxes[1],
            bbox_form=bbox_form,
            bbox_weight=torch.rand(places),
        )
    return labels


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


def test_distance_iou_of_known_boxes():
    student = torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0], [0.0] * 4])
    teacher = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0] * 4])
    torch.testing.assert_close(
        distance_iou_loss(student, teacher), torch.tensor([0.0, 0.75, 0.0])
    )


def test_half_a_turn_changes_no_rotated_box():
    sides = torch.ones(3, 4)
    angles = torch.tensor([[0.0], [math.pi], [math.pi / 6]])
    loss = rotated_distance_loss(
        torch.cat([sides, torch.zeros(3, 1)], dim=1), torch.cat([sides, angles], dim=1)
    )
    torch.testing.assert_close(loss, torch.tensor([0.0, 0.0, 0.5]))


def test_inside_rotated_boxes():
    """Of a box of 24 by 4 around (16, 16), turned by 45 degrees, the diagonal."""
    box = torch.tensor([[16.0, 16.0, 24.0, 4.0, math.pi / 4]])
    inside = inside_boxes([box], image_size=(32, 32), map_size=(8, 8))
    expected = torch.eye(8, dtype=torch.bool)
    expected[[0, 1, 6, 7]] = False  # further than 12 from the centre
    assert torch.equal(inside[0], expected)


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


class TestDetAttentionTransferLoss(FeatureLossContract):
    """The equation of weighted positions, image by image."""

    component = DetAttentionTransferLoss
    cases = {
        reduction: Case(
            dict(loss_weight=2.0, reduction=reduction),
            [(2, 3, 3, 6, 7), (2, 3, 4, 3, 4)],
        )
        for reduction in ('mean', 'sum', 'norm')
    }
    main = list(cases)
    wrong_settings = [
        *FeatureLossContract.wrong_settings,
        (dict(reduction='batchmean'), "'norm'"),
    ]

    def pair(self, case, device='cpu'):
        pair = super().pair(case, device)
        weights = [
            torch.rand(n, h, w, dtype=torch.float64, device=device)
            for n, *_, h, w in case.data
        ]
        return pair._replace(options=dict(weights=weights))

    def expected(self, loss, pair):
        total = 0.0
        levels = pair.student.values(), pair.teacher.values(), pair.options['weights']
        for s, t, w in zip(*levels):
            squares = []
            for image in range(2):
                a, b = ((x[image] ** 2).mean(dim=0) for x in (s, t.detach()))
                d = a / (a**2).sum().sqrt() - b / (b**2).sum().sqrt()
                squares.append((w[image] * d**2).sum())
            if loss.reduction == 'mean':
                total = total + sum(squares) / w.sum()
            elif loss.reduction == 'sum':
                total = total + sum(squares) / 2
            else:
                total = total + sum(square.sqrt() for square in squares) / 2
        return loss.loss_weight * total
