"""The FitNet loss against its equation, and whom it trains."""

import pytest
import reference
import torch
from contracts import Case, FeatureLossContract

from frskd_mm.models.losses import FitNetLoss

# Per level (N, c, d, H, W).
LEVELS = [(3, 4, 8, 6, 5), (3, 6, 2, 3, 3)]


def build(levels=LEVELS, **kwargs):
    loss = FitNetLoss(
        [c for _, c, *_ in levels], [d for *_, d, _, _ in levels], **kwargs
    )
    loss.init_weights()
    return loss


class TestFitNetLoss(FeatureLossContract):
    """The mean over N, d, H, W of (r(F) - T)^2, summed over levels."""

    component = FitNetLoss
    cases = {
        'two-levels': Case(dict(loss_weight=7.0), LEVELS),
        'one-pixel': Case(dict(), [(8, 3, 2, 1, 1)]),
    }
    main = ['two-levels']

    def build(self, case, device='cpu', dtype=None):
        return build(case.data, **case.settings).to(device, dtype)

    def expected(self, loss, pair):
        total = 0
        for adapter, f, t in zip(
            loss.adapters, pair.student.values(), pair.teacher.values()
        ):
            norm = adapter[1]
            adapted = reference.relu(
                reference.batch_norm(
                    reference.conv1x1(f, adapter[0].weight),
                    reference.Norm(
                        norm.weight, norm.bias, norm.running_mean, norm.running_var
                    ),
                    training=True,
                )
            )
            total = total + ((adapted - t.detach()) ** 2).sum() / t.numel()
        return loss.loss_weight * total


def test_zero_where_the_adapted_maps_are_equal():
    student = [torch.randn(n, c, h, w).relu() for n, c, _, h, w in LEVELS]
    loss = build()
    teacher = [adapt(feat) for adapt, feat in zip(loss.adapters, student)]
    assert loss(student, teacher).item() == 0


def test_adapters_get_he_initialisation():
    loss = FitNetLoss([16], [512])
    loss.init_weights()
    std = loss.adapters[0][0].weight.std().item()
    assert std == pytest.approx((2 / 512) ** 0.5, rel=0.05)
