"""Calibration metrics and intervals against plain reference code."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator

from frskd_mm.evaluation.calibration import (
    Predictions,
    area_under_risk_coverage,
    expected_calibration_error,
    gather_bins,
    negative_log_likelihood,
)
from frskd_mm.lab.statistics import mean_std, paired_interval
from frskd_mm.registry import METRICS


def samples(number, classes, seed, sharpness=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(number, classes, generator=generator)
    labels = torch.randint(classes, (number,), generator=generator)
    return logits.softmax(dim=1), labels


def nll_reference(scores, labels):
    return sum(-math.log(s[y]) for s, y in zip(scores, labels)) / len(labels)


def ece_reference(scores, labels, num_bins):
    total = 0.0
    for k in range(num_bins):
        inside = [
            (max(s), s.index(max(s)) == y)
            for s, y in zip(scores, labels)
            if k / num_bins < max(s) <= (k + 1) / num_bins
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


def risks(correct):
    return [sum(not c for c in correct[: n + 1]) / (n + 1) for n in range(len(correct))]


def aurc_reference(scores, labels):
    pairs = [(max(s), s.index(max(s)) == y) for s, y in zip(scores, labels)]
    pairs.sort(key=lambda pair: -pair[0])
    return sum(risks([c for _, c in pairs])) / len(pairs)


@pytest.mark.parametrize(
    ('number', 'classes', 'num_bins'), [(1, 3, 15), (40, 10, 15), (301, 5, 7)]
)
def test_parity_with_the_definitions(number, classes, num_bins, tmp_path):
    scores, labels = samples(number, classes, seed=number)
    path = tmp_path / 'new/predictions.npz'
    metric = METRICS.build(
        dict(type='frskd_mm.Calibration', num_bins=num_bins, out_file=str(path))
    )
    for start in range(0, number, 16):  # batches
        metric.process(
            None,
            [
                dict(pred_score=s, gt_label=y.view(1))
                for s, y in zip(scores[start : start + 16], labels[start : start + 16])
            ],
        )
    given = metric.evaluate(number)
    scores, labels = scores.double().tolist(), labels.tolist()
    assert given == {
        'calibration/NLL': pytest.approx(nll_reference(scores, labels)),
        'calibration/ECE': pytest.approx(ece_reference(scores, labels, num_bins)),
        'calibration/AURC': pytest.approx(aurc_reference(scores, labels)),
    }
    with np.load(path) as arrays:
        assert arrays['label_scores'].shape == (number,)
        assert arrays['correct'].mean() == pytest.approx(
            np.mean([s.index(max(s)) == y for s, y in zip(scores, labels)])
        )


def test_aurc_of_equal_confidences_is_the_mean_over_their_orders():
    predictions = Predictions(
        np.array([0.9, 0.5, 0.5, 0.5, 0.2]), np.array([1, 0, 1, 0, 1.0]), np.ones(5)
    )
    orders = [[1, *order, 1] for order in permutations([0, 1, 0])]
    expected = np.mean([np.mean(risks(order)) for order in orders])
    assert area_under_risk_coverage(predictions) == pytest.approx(expected)


def plain_reference(triples, num_bins):
    """Calculate NLL, ECE and AURC of (confidence, correct, label's probability)."""
    nll = sum(-math.log(max(p, 2.0**-126)) for _, _, p in triples) / len(triples)
    bins = [[] for _ in range(num_bins)]
    for confidence, right, _ in triples:
        k = next(k for k in range(num_bins) if confidence <= (k + 1) / num_bins)
        bins[k].append((confidence, right))
    ece = sum(abs(sum(c - r for c, r in inside)) for inside in bins) / len(triples)
    covered, errors, area = 0, 0.0, 0.0
    for level in sorted({c for c, _, _ in triples}, reverse=True):
        wrong = [1 - right for c, right, _ in triples if c == level]
        for _ in wrong:  # equal confidences share their errors
            covered, errors = covered + 1, errors + sum(wrong) / len(wrong)
            area += errors / covered
    return nll, ece, area / len(triples)


EDGES = [k / 15 for k in range(16)]


@pytest.mark.parametrize(
    'triples',
    [
        pytest.param([(1.0, 1, 1.0)], id='one-sample-right-and-sure'),
        pytest.param([(1.0, 0, 0.0)], id='one-sample-wrong-and-sure'),
        pytest.param([(0.5, 1, 0.5)], id='one-sample-right'),
        pytest.param([(0.5, 0, 0.2)], id='one-sample-wrong'),
        pytest.param([(0.0, 0, 0.0), (0.9, 1, 0.9)], id='confidence-0'),
        pytest.param([(1.0, 1, 1.0), (1.0, 0, 0.0)], id='confidence-1'),
        pytest.param([(c, 1, c) for c in (0.4, 0.7, 0.9, 0.9)], id='all-right'),
        pytest.param([(c, 0, 1 - c) for c in (0.6, 0.7, 0.9, 0.9)], id='all-wrong'),
        pytest.param([(c, k % 2, c) for k, c in enumerate(EDGES)], id='edges'),
        pytest.param(
            [(np.nextafter(c, 1), k % 3 == 0, c) for k, c in enumerate(EDGES)],
            id='just-above-the-edges',
        ),
    ],
)
@pytest.mark.parametrize('num_bins', [1, 2, 15])
def test_edge_cases(triples, num_bins):
    predictions = Predictions(*np.array(triples, dtype=float).T)
    nll, ece, aurc = plain_reference(triples, num_bins)
    assert negative_log_likelihood(predictions) == pytest.approx(nll)
    assert expected_calibration_error(predictions, num_bins) == pytest.approx(ece)
    assert area_under_risk_coverage(predictions) == pytest.approx(aurc)


def test_an_edge_belongs_to_the_bin_below():
    confidences = np.array(EDGES)
    predictions = Predictions(confidences, np.ones(16), confidences)
    assert gather_bins(predictions, 15).counts.tolist() == [2] + [1] * 14
    above = predictions._replace(confidences=np.nextafter(confidences, 2)[:15])
    above = above._replace(correct=np.ones(15))
    assert gather_bins(above, 15).counts.tolist() == [1] * 15


def test_scores_of_exactly_1_and_0():
    metric = METRICS.build(dict(type='frskd_mm.Calibration'))
    sure = torch.tensor([0.0, 1.0, 0.0])
    for label in (1, 0):  # right, then wrong
        metric.process(None, [dict(pred_score=sure, gt_label=torch.tensor([label]))])
    assert metric.evaluate(2) == {
        'calibration/NLL': pytest.approx(-math.log(2.0**-126) / 2),
        'calibration/ECE': 0.5,
        'calibration/AURC': 0.5,
    }


def test_limits():
    right = Predictions(np.ones(4), np.ones(4), np.ones(4))
    wrong = Predictions(np.ones(4), np.zeros(4), np.zeros(4))
    assert negative_log_likelihood(right) == area_under_risk_coverage(right) == 0.0
    assert area_under_risk_coverage(wrong) == 1.0
    assert negative_log_likelihood(wrong) == pytest.approx(87.3365, abs=1e-3)
    assert gather_bins(wrong, 15).counts.tolist() == [0] * 14 + [4]


def test_several_labels_are_refused():
    metric = METRICS.build(dict(type='frskd_mm.Calibration'))
    sample = dict(pred_score=torch.ones(3) / 3, gt_label=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match='one label an image'):
        metric.process(None, [sample])


def test_it_works_beside_other_metrics():
    both = [dict(type='frskd_mm.Calibration', prefix=name) for name in 'ab']
    evaluator = Evaluator([METRICS.build(cfg) for cfg in both])
    evaluator.process(
        [dict(pred_score=torch.tensor([0.75, 0.25]), gt_label=torch.tensor([0]))]
    )
    metrics = evaluator.evaluate(1)
    assert metrics['a/ECE'] == metrics['b/ECE'] == pytest.approx(0.25)


def test_interval_is_paired_students_t():
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027
    mean, half = paired_interval([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
    assert mean == pytest.approx(2.0)
    assert half == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    mean, half = paired_interval([1.5], [1.0])
    assert mean == 0.5
    assert math.isnan(half)
    mean, half = paired_interval([51.2, 51.4], [50.1, 50.3])
    assert mean == pytest.approx(1.1)
    assert math.isnan(half)


def test_mean_and_deviation():
    assert mean_std([1.0, 3.0]) == '2.00 ± 1.41'
    assert mean_std([1.25], digits=1) == '1.2'
    assert mean_std([]) == '–'
