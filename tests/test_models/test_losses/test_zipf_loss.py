"""Zipf's label smoothing against a plain version of the source, and its limits."""

from itertools import product

import torch
from contracts import Case, LossContract, Pair

from frskd_mm.models.losses import ZipfLoss
from frskd_mm.models.losses.zipf_loss import vote_ranks


def reference(logits, votes, labels, power):
    """Image by image, class by class."""
    total = 0.0
    for z, ballot, label in zip(logits, votes.tolist(), labels.tolist()):
        counts = [ballot.count(c) for c in range(len(z))]
        ranks = [1 + sum(other > count for other in counts) for count in counts]
        others = [c for c in range(len(z)) if c != label]
        norm = sum(ranks[c] ** -power for c in others)
        log_norm = sum(z[c].exp() for c in others).log()
        for c in others:
            share = ranks[c] ** -power / norm
            log_share = torch.tensor(share, dtype=z.dtype).log()
            total = total + share * (log_share - (z[c] - log_norm))
    return total / len(logits)


class TestZipfLoss(LossContract):
    """The data of a case: images, classes and votes."""

    component = ZipfLoss
    cases = {
        f'{sizes}-{power}': Case(dict(power=power, loss_weight=0.7), sizes)
        for sizes, power in product(
            [(1, 2, 1), (4, 10, 16), (3, 100, 4), (5, 7, 49)], [0.0, 1.0, 2.5]
        )
        if sizes[1] > 2  # of two classes one is the label, and nothing is left
    }
    main = ['(4, 10, 16)-1.0', '(5, 7, 49)-2.5']
    wrong_settings = [
        (dict(power=-1.0), 'power of ZipfLoss must be'),
        (dict(loss_weight=-1.0), 'loss_weight of ZipfLoss must be'),
    ]
    test_what_cannot_be_compared_is_named = None

    def pair(self, case, device='cpu'):
        num, classes, positions = case.data
        logits = 3 * torch.randn(num, classes, dtype=torch.float64)
        given = dict(
            votes=torch.randint(0, classes, (num, positions)).to(device),
            labels=torch.randint(0, classes, (num,)).to(device),
        )
        return Pair(dict(logits=logits.to(device).requires_grad_()), {}, given)

    def call(self, loss, pair):
        return loss(pair.student['logits'], **pair.options)

    def expected(self, loss, pair):
        return loss.loss_weight * reference(
            pair.student['logits'], **pair.options, power=loss.power
        )


def test_of_two_classes_nothing_is_left_to_rank():
    logits, votes = torch.randn(1, 2, requires_grad=True), torch.tensor([[1]])
    value = ZipfLoss()(logits, votes, torch.tensor([0]))
    assert value.item() == 0
    assert not torch.autograd.grad(value, logits)[0].any()


def test_ties_share_the_smallest_rank():
    votes = torch.tensor([[2, 2, 2, 0, 4], [1, 1, 3, 3, 3]])
    ranks = vote_ranks(votes, num_classes=5)
    assert ranks.tolist() == [[2, 4, 1, 4, 2], [3, 2, 3, 1, 3]]


def test_the_law_itself_costs_nothing():
    votes = torch.tensor([[0, 0, 0, 1, 1, 2]])
    logits = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    logits[0, 1:] = -torch.tensor([2.0, 3.0, 4.0]).log()
    value = ZipfLoss()(logits, votes, torch.tensor([0]))
    torch.testing.assert_close(value, torch.tensor(0.0))


def test_the_label_is_left_to_the_task_loss():
    logits = torch.randn(4, 6, requires_grad=True)
    labels = torch.tensor([0, 5, 2, 2])
    votes = torch.randint(0, 6, (4, 9))
    (grad,) = torch.autograd.grad(ZipfLoss()(logits, votes, labels), logits)
    assert (grad.gather(1, labels[:, None]) == 0).all()
    assert grad.abs().sum() > 0


def test_half_precision_is_computed_in_full():
    logits = torch.tensor([[60000.0, -60000.0, 3.0]], dtype=torch.float16)
    votes = torch.tensor([[1, 1, 2]])
    value = ZipfLoss()(logits, votes, torch.tensor([2]))
    assert torch.isfinite(value)
    assert value.dtype == torch.float32
