"""The FitNet loss against its equation, and whom it trains."""

import pytest
import reference
import torch

from frskd_mm.models.losses import FitNetLoss

# Per level (N, c, d, H, W).
LEVELS = [(3, 4, 8, 6, 5), (3, 6, 2, 3, 3)]


def feats_of(levels=LEVELS):
    student = [torch.randn(n, c, h, w).relu() for n, c, _, h, w in levels]
    teacher = [torch.randn(n, d, h, w).relu() for n, _, d, h, w in levels]
    return [f.requires_grad_() for f in student], [t.requires_grad_() for t in teacher]


def build(**kwargs):
    loss = FitNetLoss(
        [c for _, c, *_ in LEVELS], [d for *_, d, _, _ in LEVELS], **kwargs
    )
    loss.init_weights()
    return loss


def plain(loss, student, teacher):
    """The mean over N, d, H, W of (r(F) - T)^2, summed over levels."""
    total = 0
    for adapter, f, t in zip(loss.adapters, student, teacher):
        adapted = reference.conv1x1(f, adapter[0].weight)
        norm = adapter[1]
        adapted = reference.relu(
            reference.batch_norm(
                adapted,
                reference.Norm(
                    norm.weight, norm.bias, norm.running_mean, norm.running_var
                ),
                training=True,
            )
        )
        total = total + ((adapted - t.detach()) ** 2).sum() / t.numel()
    return total


def test_equals_the_equation():
    student, teacher = feats_of()
    loss = build(loss_weight=7.0)
    value, expected = loss(student, teacher), 7.0 * plain(loss, student, teacher)
    assert value.item() > 0
    torch.testing.assert_close(value, expected)
    wanted = [*student, *loss.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(value, wanted),
        torch.autograd.grad(expected, wanted),
        rtol=1e-3,
        atol=1e-5,
    )


def test_trains_student_and_adapters_but_not_the_teacher():
    student, teacher = feats_of()
    loss = build()
    loss(student, teacher).backward()
    assert all(feat.grad.abs().sum() > 0 for feat in student)
    assert all(param.grad is not None for param in loss.parameters())
    assert all(feat.grad is None for feat in teacher)


def test_zero_where_the_adapted_maps_are_equal():
    student, _ = feats_of()
    loss = build()
    teacher = [adapt(feat) for adapt, feat in zip(loss.adapters, student)]
    assert loss(student, teacher).item() == 0


def test_adapters_get_he_initialisation():
    loss = FitNetLoss([16], [512])
    loss.init_weights()
    std = loss.adapters[0][0].weight.std().item()
    assert std == pytest.approx((2 / 512) ** 0.5, rel=0.05)


def test_half_precision_maps_are_compared_in_fp32():
    student, teacher = feats_of()
    loss = build()
    expected = loss([f.half() for f in student], [t.half() for t in teacher])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss([f.half() for f in student], [t.half() for t in teacher])
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_levels_must_pair_up():
    student, teacher = feats_of()
    with pytest.raises(ValueError, match='2 feature maps and the self-teacher 1'):
        build()(student, teacher[:1])
