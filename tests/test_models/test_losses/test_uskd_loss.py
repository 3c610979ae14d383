"""USKD against a plain version of the source, and its limits."""

import math
from itertools import product

import torch
from contracts import Case, LossContract, Pair
from torch.nn import functional as F

from frskd_mm.models.losses import USKDLoss


def reference(logits, weak_logits, scores, mixed, smoothing=0.1):
    """Image by image, class by class; each image's targets, largest share first."""
    num, classes = logits.shape
    probs, weak = logits.softmax(1), weak_logits.softmax(1)
    columns = 2 if mixed else 1
    targets = [
        sorted(range(classes), key=lambda c, row=row: -float(row[c]))[:columns]
        for row in scores
    ]
    means = [
        sum(float(probs[n, targets[n][k]]) ** 2 for n in range(num)) / num
        for k in range(columns)
    ]
    target_loss = non_target_loss = weak_loss = 0.0
    for n in range(num):
        for k, c in enumerate(targets[n]):
            share = float(scores[n, c])
            if share:
                factor = float(probs[n, c]) ** 2 + share - means[k]
                target_loss = target_loss - factor * probs[n, c].log()
        log_probs = probs[n].log().tolist()
        rest_weak = 1 - sum(float(weak[n, c]) for c in targets[n]) + 1e-6
        rest = 1 - sum(log_probs[c] for c in targets[n]) + 1e-6
        value = [
            float(weak[n, c]) / rest_weak + log_probs[c] / rest for c in range(classes)
        ]
        ordered = sorted(range(classes), key=lambda c: -value[c])
        others = [c for c in range(classes) if c not in targets[n]]
        law = {c: 1 / (1 + ordered.index(c)) for c in others}
        log_norm = sum(logits[n, c].exp() for c in others).log()
        for c in others:
            share = law[c] / sum(law.values())
            non_target_loss = non_target_loss - share * (logits[n, c] - log_norm)
        for c in range(classes):
            target = (1 - smoothing) * float(scores[n, c]) + smoothing / classes
            weak_loss = weak_loss - target * weak[n, c].log()
    return [term / num for term in (target_loss, non_target_loss, weak_loss)]


def targets_of(num, classes, mixed):
    labels = torch.stack([torch.randperm(classes)[:2] for _ in range(num)])
    if not mixed:
        return F.one_hot(labels[:, 0], classes).float()
    share = 0.5 + 0.4 * torch.rand(num, 1)
    first, second = (F.one_hot(labels[:, k], classes) for k in (0, 1))
    return share * first + (1 - share) * second


class TestUSKDLoss(LossContract):
    """The data of a case: images, classes and whether labels are mixed."""

    component = USKDLoss
    cases = {
        **{
            f'{num}-{classes}-{"mixed" if mixed else "labels"}': Case(
                dict(alpha=0.3, beta=0.7, mu=1.5), (num, classes, mixed)
            )
            for (num, classes), mixed in product(
                [(1, 3), (4, 10), (6, 100)], [False, True]
            )
        },
        # The factor of the target's term is detached.
        'without-target': Case(dict(alpha=0.0, beta=0.7, mu=1.5), (4, 10, False)),
    }
    main = ['4-10-mixed']
    gradcheck = ['without-target']
    weights = ('alpha', 'beta', 'mu')
    wrong_settings = [
        (dict(alpha=-1.0), 'alpha of USKDLoss must be'),
        (dict(smoothing=1.5), 'smoothing of USKDLoss must'),
    ]
    test_what_cannot_be_compared_is_named = None

    def pair(self, case, device='cpu'):
        num, classes, mixed = case.data
        student = {
            name: (2 * torch.randn(num, classes, dtype=torch.float64))
            .to(device)
            .requires_grad_()
            for name in ('logits', 'weak_logits')
        }
        scores = targets_of(num, classes, mixed).to(device)
        return Pair(student, {}, dict(scores=scores, mixed=mixed))

    def call(self, loss, pair):
        return sum(loss(**pair.student, **pair.options))

    def expected(self, loss, pair):
        terms = reference(**pair.student, **pair.options)
        weights = (loss.alpha, loss.beta, loss.mu)
        return sum(weight * term for weight, term in zip(weights, terms))


def test_each_term_trains_its_own_logits():
    logits = torch.randn(4, 6, requires_grad=True)
    weak_logits = torch.randn(4, 6, requires_grad=True)
    scores = targets_of(4, 6, mixed=False)
    reached = [
        tuple(
            grad is not None
            for grad in torch.autograd.grad(
                term, [logits, weak_logits], allow_unused=True, retain_graph=True
            )
        )
        for term in USKDLoss()(logits, weak_logits, scores)
    ]
    assert reached == [(True, False), (True, False), (False, True)]


def test_of_one_image_the_target_is_its_label():
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    scores = torch.tensor([[1.0, 0.0, 0.0]])
    target, _, _ = USKDLoss(alpha=1.0)(logits, logits, scores)
    torch.testing.assert_close(target, F.cross_entropy(logits, scores))


def test_an_image_that_is_not_mixed_has_one_target():
    logits = torch.randn(1, 5)
    scores = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    mixed, _, _ = USKDLoss(alpha=1.0)(logits, logits, scores, mixed=True)
    torch.testing.assert_close(mixed, F.cross_entropy(logits, scores))


def test_even_classifiers_cost_the_entropy():
    logits = torch.zeros(2, 4)
    scores = targets_of(2, 4, mixed=False)
    terms = USKDLoss(alpha=1.0, beta=1.0, mu=1.0)(logits, logits, scores)
    expected = [math.log(4), math.log(3), math.log(4)]
    torch.testing.assert_close(torch.stack(terms), torch.tensor(expected))


def test_two_classes_that_are_mixed_leave_no_others():
    logits = torch.randn(4, 2, requires_grad=True)
    scores = torch.tensor([[0.3, 0.7]]).expand(4, 2)
    terms = USKDLoss()(logits, logits, scores, mixed=True)
    assert terms[1] == 0
    sum(terms).backward()
    assert logits.grad.isfinite().all()


def test_half_precision_is_computed_in_full():
    logits = torch.tensor([[60000.0, -60000.0, 3.0]], dtype=torch.float16)
    scores = torch.tensor([[0.0, 0.0, 1.0]])
    for term in USKDLoss()(logits, logits, scores):
        assert torch.isfinite(term)
        assert term.dtype == torch.float32
