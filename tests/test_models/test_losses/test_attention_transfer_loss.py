"""The attention-transfer loss against its equation, and its limits."""

import pytest
import reference
import torch

from frskd_mm.models.losses import AttentionTransferLoss
from frskd_mm.registry import MODELS

REDUCTIONS = ('mean', 'sum', 'norm')
# Name -> per level (N, C_s, C_t, H, W).
LEVELS = {
    'one': [(2, 4, 8, 4, 4)],
    'cifar': [(2, 4, 8, 16, 16), (2, 8, 16, 8, 8), (2, 16, 32, 4, 4)],
    'odd': [(1, 3, 5, 25, 13), (1, 2, 2, 13, 7)],
    'small': [(3, 4, 4, 1, 2), (3, 4, 4, 2, 1)],
}


def feats_of(levels):
    student = [torch.randn(n, c, h, w).relu() for n, c, _, h, w in levels]
    teacher = [torch.randn(n, c, h, w).relu() for n, _, c, h, w in levels]
    return [f.requires_grad_() for f in student], [t.requires_grad_() for t in teacher]


@pytest.mark.parametrize('reduction', REDUCTIONS)
@pytest.mark.parametrize('levels', LEVELS)
def test_equals_the_equation(levels, reduction):
    student, teacher = feats_of(LEVELS[levels])
    value = AttentionTransferLoss(loss_weight=50.0, reduction=reduction)(
        student, teacher
    )
    expected = 50.0 * reference.attention_transfer(
        [f.double() for f in student], [t.double() for t in teacher], reduction
    )
    assert value.item() > 0
    torch.testing.assert_close(value, expected.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(value, student),
        torch.autograd.grad(expected, student),
        rtol=1e-3,
        atol=1e-6,
    )


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


def test_teacher_gets_no_gradient():
    student, teacher = feats_of(LEVELS['cifar'])
    AttentionTransferLoss()(student, teacher).backward()
    assert all(t.grad is None for t in teacher)
    assert all(f.grad.abs().sum() > 0 for f in student)


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


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    """Squares of 400 overflow fp16."""
    student = (400 * torch.rand(2, 4, 5, 5)).to(dtype).requires_grad_()
    teacher = (400 * torch.rand(2, 8, 5, 5)).to(dtype)
    expected = AttentionTransferLoss()([student.float()], [teacher.float()])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = AttentionTransferLoss()([student], [teacher])
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert torch.isfinite(student.grad).all()


def test_wrong_inputs_are_named():
    with pytest.raises(
        ValueError, match=r"one of \('mean', 'sum', 'norm'\), got 'batchmean'"
    ):
        AttentionTransferLoss(reduction='batchmean')
    loss, feat = AttentionTransferLoss(), torch.ones(2, 4, 8, 8)
    with pytest.raises(ValueError, match='gave 2 feature maps and the self-teacher 1'):
        loss([feat, feat], [feat])
    with pytest.raises(ValueError, match=r'Level 1: student map \(2, 4, 8, 8\) and'):
        loss([feat, feat], [feat, torch.ones(2, 4, 8, 4)])
    with pytest.raises(ValueError, match='Level 0: .* differ in N, H or W'):
        loss([feat], [feat[:1]])


def test_is_registered():
    built = MODELS.build(dict(type='AttentionTransferLoss'))
    assert isinstance(built, AttentionTransferLoss)
