"""The attention-transfer loss against its equation, and its limits."""

from itertools import product

import pytest
import reference
import torch
from contracts import Case, FeatureLossContract

from frskd_mm.models.losses import AttentionTransferLoss

REDUCTIONS = ('mean', 'sum', 'norm')
# Name -> per level (N, C_s, C_t, H, W).
LEVELS = {
    'one': [(2, 4, 8, 4, 4)],
    'cifar': [(2, 4, 8, 16, 16), (2, 8, 16, 8, 8), (2, 16, 32, 4, 4)],
    'odd': [(1, 3, 5, 25, 13), (1, 2, 2, 13, 7)],
    'small': [(3, 4, 4, 1, 2), (3, 4, 4, 2, 1)],
}


class TestAttentionTransferLoss(FeatureLossContract):
    component = AttentionTransferLoss
    cases = {
        f'{levels}-{reduction}': Case(
            dict(loss_weight=50.0, reduction=reduction), LEVELS[levels]
        )
        for levels, reduction in product(LEVELS, REDUCTIONS)
    }
    main = [f'cifar-{reduction}' for reduction in REDUCTIONS]
    wrong_settings = [
        *FeatureLossContract.wrong_settings,
        (
            dict(reduction='batchmean'),
            r"one of \('mean', 'sum', 'norm'\), got 'batchmean'",
        ),
    ]

    def expected(self, loss, pair):
        feats = list(pair.student.values()), list(pair.teacher.values())
        return loss.loss_weight * reference.attention_transfer(*feats, loss.reduction)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_squares_that_overflow_fp16(dtype):
    student = (400 * torch.rand(2, 4, 5, 5)).to(dtype).requires_grad_()
    teacher = (400 * torch.rand(2, 8, 5, 5)).to(dtype)
    loss = AttentionTransferLoss()([student], [teacher])
    loss.backward()
    torch.testing.assert_close(
        loss, AttentionTransferLoss()([student.float()], [teacher.float()])
    )
    assert torch.isfinite(student.grad).all()


def feats_of(levels):
    student = [torch.randn(n, c, h, w).relu() for n, c, _, h, w in levels]
    teacher = [torch.randn(n, c, h, w).relu() for n, _, c, h, w in levels]
    return [f.requires_grad_() for f in student], [t.requires_grad_() for t in teacher]


def test_sum_is_mean_times_the_size():
    student, teacher = feats_of(LEVELS['one'])
    mean = AttentionTransferLoss(reduction='mean')(student, teacher)
    total = AttentionTransferLoss(reduction='sum')(student, teacher)
    torch.testing.assert_close(total, 16 * mean)


def test_only_mean_shrinks_with_the_resolution():
    """The same picture with each pixel repeated: 'sum' and 'norm' keep their value."""
    student, teacher = feats_of(LEVELS['one'])
    student2, teacher2 = (
        [f.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for f in feats]
        for feats in (student, teacher)
    )
    for reduction, factor in (('mean', 0.25), ('sum', 1.0), ('norm', 1.0)):
        loss = AttentionTransferLoss(reduction=reduction)
        torch.testing.assert_close(
            loss(student2, teacher2), factor * loss(student, teacher)
        )


def test_default_is_the_authors_mean_and_weight():
    student, teacher = feats_of(LEVELS['cifar'])
    torch.testing.assert_close(
        AttentionTransferLoss()(student, teacher),
        100 * reference.attention_transfer(student, teacher, 'mean'),
    )


@pytest.mark.parametrize('reduction', REDUCTIONS)
def test_equal_or_scaled_maps_give_zero(reduction):
    student, _ = feats_of(LEVELS['cifar'])
    loss = AttentionTransferLoss(reduction=reduction)
    same = loss(student, [f.clone() for f in student])
    assert same.item() == 0.0
    assert all((g == 0).all() for g in torch.autograd.grad(same, student))
    scaled = loss(student, [37.0 * f for f in student])
    assert scaled.item() == pytest.approx(
        0.0, abs=1e-4 if reduction == 'norm' else 1e-9
    )


@pytest.mark.parametrize('reduction', REDUCTIONS)
def test_constant_zero_maps_are_finite(reduction):
    student, teacher = feats_of(LEVELS['cifar'])
    zero = [torch.zeros_like(f, requires_grad=True) for f in student]
    loss = AttentionTransferLoss(reduction=reduction)
    for pair in ((zero, teacher), (zero, zero)):
        value = loss(*pair)
        assert torch.isfinite(value)
        for grad in torch.autograd.grad(value, zero):
            assert torch.isfinite(grad).all()
    assert torch.isfinite(loss(student, zero))


@pytest.mark.parametrize('reduction', REDUCTIONS)
def test_one_dead_sample_leaves_the_others_alone(reduction):
    """A map that is zero for one image of a batch, as after a dead ReLU."""
    student, teacher = feats_of([(2, 4, 8, 4, 4)])
    with torch.no_grad():
        student[0][0] = 0
    AttentionTransferLoss(reduction=reduction)(student, teacher).backward()
    alone = student[0].detach()[1:].requires_grad_()
    AttentionTransferLoss(reduction=reduction)([alone], [teacher[0][1:]]).backward()
    assert torch.isfinite(student[0].grad).all()
    torch.testing.assert_close(student[0].grad[1:], alone.grad / 2)
