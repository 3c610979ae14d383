"""The soft-label loss against its equation, and its limits."""

import pytest
import reference
import torch

from frskd_mm.models.losses import SoftLabelLoss
from frskd_mm.registry import MODELS

SHAPES = [(1, 2), (4, 10), (3, 100), (2, 5, 7), (2, 4, 3, 5), (2, 3, 2, 3, 2)]


def logits(shape, scale=3.0):
    return (scale * torch.randn(shape)).requires_grad_()


@pytest.mark.parametrize('masked', [False, True], ids=['all', 'masked'])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0, 10.0])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_equals_the_equation(shape, temperature, masked):
    student, teacher = logits(shape), logits(shape)
    mask = torch.rand(shape[0], *shape[2:]) < 0.6 if masked else None
    if masked:
        mask.view(-1)[0] = True
    loss = SoftLabelLoss(temperature=temperature, loss_weight=2.5)

    value = loss(student, teacher, mask=mask)
    expected = 2.5 * reference.soft_label(
        student.double(), teacher.double(), temperature, mask
    )
    torch.testing.assert_close(value, expected.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        torch.autograd.grad(value, student),
        torch.autograd.grad(expected, student),
        rtol=1e-4,
        atol=1e-6,
    )


def test_is_averaged_over_positions_not_only_over_images():
    student, teacher = logits((2, 5, 4, 6)), logits((2, 5, 4, 6))
    loss = SoftLabelLoss()
    flat = [z.movedim(1, -1).reshape(-1, 5) for z in (student, teacher)]
    torch.testing.assert_close(loss(student, teacher), loss(*flat))


def test_teacher_gets_no_gradient():
    student, teacher = logits((4, 6)), logits((4, 6))
    SoftLabelLoss()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


def test_equal_logits_give_zero():
    student = logits((4, 6))
    loss = SoftLabelLoss()(student, student + 7.0)
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert torch.autograd.grad(loss, student)[0].abs().max() < 1e-6


def test_no_true_position_gives_zero():
    student, teacher = logits((2, 5, 3, 3)), logits((2, 5, 3, 3))
    loss = SoftLabelLoss()(student, teacher, mask=torch.zeros(2, 3, 3) > 0)
    loss.backward()
    assert loss.item() == 0.0
    assert (student.grad == 0).all()


def test_ignored_positions_may_hold_anything():
    student, teacher = logits((2, 5, 3, 3)), logits((2, 5, 3, 3))
    mask = torch.ones(2, 3, 3, dtype=torch.bool)
    mask[0, 1, 1] = False
    loss = SoftLabelLoss()
    expected = loss(student, teacher, mask=mask)
    garbage = teacher.detach().clone()
    garbage[0, :, 1, 1] = torch.tensor([float('inf'), float('nan'), 0.0, -1e38, 1e38])
    torch.testing.assert_close(loss(student, garbage, mask=mask), expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype):
    student = (30 * torch.randn(4, 10)).to(dtype).requires_grad_()
    teacher = (30 * torch.randn(4, 10)).to(dtype)
    expected = SoftLabelLoss()(student.float(), teacher.float())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = SoftLabelLoss()(student, teacher)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0, atol=0)
    assert torch.isfinite(student.grad).all()


def test_extreme_logits_stay_finite():
    student = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    loss = SoftLabelLoss(temperature=1.0)(student, -student)
    loss.backward()
    assert loss.item() == pytest.approx(2e4, rel=1e-5)
    assert torch.isfinite(student.grad).all()


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match='temperature must be positive, got 0'):
        SoftLabelLoss(temperature=0)
    with pytest.raises(ValueError, match=r'one shape, got \(4, 6\) and \(4, 5\)'):
        SoftLabelLoss()(torch.zeros(4, 6), torch.zeros(4, 5))


def test_is_registered():
    assert isinstance(MODELS.build(dict(type='SoftLabelLoss')), SoftLabelLoss)
