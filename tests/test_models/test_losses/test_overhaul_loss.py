"""The overhaul loss against its equation, its margins, and its limits."""

import math

import pytest
import reference
import torch
from contracts import Case, FeatureLossContract
from torch import nn

from frskd_mm.models.losses import OverhaulLoss
from frskd_mm.models.losses.overhaul_loss import margin_of_norm

LEVELS = [(3, 4, 5, 6, 5), (3, 6, 2, 3, 3), (3, 2, 3, 2, 1)]


def feats_of():
    student = [torch.randn(n, c, h, w) for n, c, _, h, w in LEVELS]
    teacher = [torch.randn(n, d, h, w) for n, _, d, h, w in LEVELS]
    return [f.requires_grad_() for f in student], [t.requires_grad_() for t in teacher]


def build(norms=None, **kwargs):
    loss = OverhaulLoss(
        [c for _, c, *_ in LEVELS],
        [d for *_, d, _, _ in LEVELS],
        teacher_norms=norms,
        **kwargs,
    )
    loss.init_weights()
    return loss


def fresh_norms():
    return [nn.BatchNorm2d(d).double() for *_, d, _, _ in LEVELS]


class TestOverhaulLoss(FeatureLossContract):
    """The partial distance, value by value."""

    component = OverhaulLoss
    cases = {
        margin: Case(dict(loss_weight=0.5, margin=margin), LEVELS)
        for margin in ('norm', 'batch')
    }
    main = ['norm', 'batch']
    activated = False
    wrong_settings = [
        *FeatureLossContract.wrong_settings,
        (dict(margin='median'), "margin of OverhaulLoss must be one of .*'median'"),
        (dict(teacher_norms=None), "Set margin='batch'"),
    ]

    def build(self, case, device='cpu', dtype=None):
        norms = fresh_norms() if case.settings['margin'] == 'norm' else None
        settings = {'norms': norms, **case.settings}
        settings['norms'] = settings.pop('teacher_norms', settings['norms'])
        return build(**settings).to(device, dtype)

    def margins(self, loss, teacher):
        """The expected negative responses of N(0, 1), or those of the batch."""
        if loss.margin == 'norm':
            return [-math.sqrt(2 / math.pi)] * teacher.shape[1]
        return [channel[channel < 0].mean() for channel in teacher.transpose(0, 1)]

    def expected(self, loss, pair):
        total, n = 0, len(LEVELS)
        levels = zip(pair.student.values(), pair.teacher.values(), loss.adapters)
        for i, (f, t, adapter) in enumerate(levels, start=1):
            norm, t = adapter[1], t.detach()
            source = reference.batch_norm(
                reference.conv1x1(f, adapter[0].weight),
                reference.Norm(
                    norm.weight, norm.bias, norm.running_mean, norm.running_var
                ),
                training=True,
            )
            margins, level = self.margins(loss, t), 0
            for sample in range(len(f)):
                for channel in range(t.shape[1]):
                    pairs = zip(
                        source[sample, channel].flatten(),
                        t[sample, channel].flatten().tolist(),
                    )
                    for s, value in pairs:
                        target = max(value, margins[channel])
                        if not s <= target <= 0:
                            level = level + (s - target) ** 2
            total = total + level / len(f) / 2 ** (n - i)
        return loss.loss_weight * total


@pytest.mark.parametrize(
    ('weight', 'bias'), [(1.0, 0.0), (2.0, 0.5), (-0.7, -1.0), (1.0, -4.0)]
)
def test_margin_is_the_expected_negative_response(weight, bias):
    """Against numbers that the norm would give."""
    norm = nn.BatchNorm2d(1)
    with torch.no_grad():
        norm.weight.fill_(weight)
        norm.bias.fill_(bias)
    values = bias + abs(weight) * torch.randn(400_000)
    expected = values[values < 0].mean().item()
    assert margin_of_norm(norm).item() == pytest.approx(expected, abs=0.02)


def test_margin_without_negative_responses():
    norm = nn.BatchNorm2d(2)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 0.0]))
        norm.bias.copy_(torch.tensor([4.0, 0.0]))
    margin = margin_of_norm(norm)
    assert margin[0].item() == pytest.approx(-1.5)
    assert abs(margin[1].item()) < 1e-6


@pytest.mark.parametrize(
    'norm', [nn.InstanceNorm2d(3), nn.GroupNorm(1, 3, affine=False)], ids=['IN', 'GN']
)
def test_a_norm_without_weights_has_the_margin_of_a_fresh_one(norm):
    torch.testing.assert_close(
        margin_of_norm(norm), margin_of_norm(nn.BatchNorm2d(3)), rtol=0, atol=0
    )


def test_margins_are_saved_and_do_not_follow_the_norms():
    norms = fresh_norms()
    loss = build(norms)
    with torch.no_grad():
        norms[0].bias.fill_(3.0)
    assert 'margin_0' in loss.state_dict()
    torch.testing.assert_close(
        loss.margin_0, torch.full_like(loss.margin_0, -math.sqrt(2 / math.pi))
    )


def test_what_is_negative_enough_costs_nothing():
    student, _ = feats_of()
    loss = build(margin='batch')
    with torch.no_grad():  # the adapted maps are below -1, the teacher's above
        for adapt in loss.adapters:
            adapt[1].weight.fill_(0.01)
            adapt[1].bias.fill_(-2.0)
    teacher = [torch.full((n, d, h, w), -1.0) for n, _, d, h, w in LEVELS]
    value = loss(student, teacher)
    value.backward()
    assert value.item() == 0
    assert all(param.grad.abs().sum() == 0 for param in loss.parameters())


def test_a_shallower_level_counts_half():
    feats = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    loss = OverhaulLoss([3, 3], [3, 3], loss_weight=1.0, margin='batch')
    loss.adapters[1].load_state_dict(loss.adapters[0].state_dict())
    both = loss([feats[0]] * 2, [feats[1]] * 2)
    one = OverhaulLoss([3], [3], loss_weight=1.0, margin='batch')
    one.adapters[0].load_state_dict(loss.adapters[0].state_dict())
    torch.testing.assert_close(both, 1.5 * one([feats[0]], [feats[1]]))


def test_levels_may_come_coarse_to_fine():
    """As those of YOLOv3 do; the finest is halved most either way."""
    torch.manual_seed(0)
    student, teacher = feats_of()
    loss = build(margin='batch')
    value = loss(student, teacher)
    loss.adapters = loss.adapters[::-1]
    torch.testing.assert_close(loss(student[::-1], teacher[::-1]), value)


def test_maps_of_a_model_cast_to_fp16_do_not_overflow():
    feats = [torch.randn(1, 64, 32, 32, dtype=torch.float16)] * 2
    loss = OverhaulLoss([64, 64], [64, 64], margin='batch').half()
    value = loss(feats, [5 * feat for feat in feats])
    assert value.dtype == torch.float32
    assert torch.isfinite(value)
