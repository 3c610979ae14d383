"""PKD, CWD, MGD and LGD against their sources' formulas, written out anew."""

import pytest
import torch
import torch.nn.functional as F
from contracts import Case, FeatureLossContract
from mmengine.registry import MODELS
from toys import toy_batch, toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.losses import CWDLoss, LGDLoss, MGDLoss, PKDLoss

LOSSES = {'pkd': PKDLoss, 'cwd': CWDLoss, 'mgd': MGDLoss, 'lgd': LGDLoss}


def build(name, channels=(4, 4), **settings):
    torch.manual_seed(3)
    settings = {'in_channels': channels, 'out_channels': (4, 4), **settings}
    return LOSSES[name](loss_weight=2.0, **settings).double()


def maps(seed, channels=(4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, c, s, s + 1, generator=generator, dtype=torch.float64)
        for c, s in zip(channels, (5, 3))
    ]


def pkd(loss, student, teacher):
    total = 0
    for s, t in zip(student, teacher):
        for c in range(4):
            a, b = ((x[:, c] - x[:, c].mean()) / (x[:, c].std() + 1e-6) for x in (s, t))
            total += ((a - b) ** 2).mean() / 2 / 4
    return 2.0 * total


def cwd(loss, student, teacher):
    total = 0
    for s, t in zip(student, teacher):
        for n in range(2):
            for c in range(4):
                p, q = (F.softmax(x[n, c].flatten() / 3.0, dim=0) for x in (t, s))
                total += 9.0 * (p * (p / q).log()).sum() / (2 * 4)
    return 2.0 * total


def mgd(loss, student, teacher):
    total = 0
    for level, (s, t) in enumerate(zip(student, teacher)):
        mask = torch.where(torch.rand(2, 1, *s.shape[2:]) > 1 - 0.65, 0.0, 1.0)
        first, _, second = loss.generators[level]
        hidden = F.relu(F.conv2d(s * mask, first.weight, first.bias, padding=1))
        made = F.conv2d(hidden, second.weight, second.bias, padding=1)
        total += F.mse_loss(made, t, reduction='sum') / 2
    return 2.0 * total


def lgd(loss, student, teacher):
    (adapter,) = loss.adapters  # one for all levels
    flat = [
        torch.cat([F.instance_norm(x).flatten(1) for x in feats], dim=1)
        for feats in ([adapter(s) for s in student], teacher)
    ]
    return 2.0 * F.mse_loss(*flat)


class DenseFeatureLossContract(FeatureLossContract):
    """The formulas above; of maps that are not activated."""

    cases = {
        'two-levels': Case(
            dict(loss_weight=2.0, in_channels=(4, 4), out_channels=(4, 4)),
            [(2, 4, 4, 5, 6), (2, 4, 4, 3, 4)],
        )
    }
    main = ['two-levels']
    activated = False

    def expected(self, loss, pair):
        student, teacher = pair.student.values(), pair.teacher.values()
        return self.formula(loss, list(student), [t.detach() for t in teacher])


class TestPKDLoss(DenseFeatureLossContract):
    component = PKDLoss
    formula = staticmethod(pkd)


class TestCWDLoss(DenseFeatureLossContract):
    component = CWDLoss
    formula = staticmethod(cwd)
    cases = {
        name: case._replace(settings=dict(case.settings, temperature=3.0))
        for name, case in DenseFeatureLossContract.cases.items()
    }
    wrong_settings = [(dict(foreground='boxes'), 'foreground')]


class TestMGDLoss(DenseFeatureLossContract):
    """Its masks are drawn at random."""

    component = MGDLoss
    test_compiled_it_is_one_graph_with_the_same_value = None  # it may not seed

    def call(self, loss, pair):
        torch.manual_seed(5)
        return super().call(loss, pair)

    def formula(self, loss, student, teacher):
        torch.manual_seed(5)
        return mgd(loss, student, teacher)


class TestLGDLoss(DenseFeatureLossContract):
    component = LGDLoss
    formula = staticmethod(lgd)


@pytest.mark.parametrize('name', ['pkd', 'cwd', 'mgd'])
def test_other_channels_are_mapped(name):
    loss = build(name, channels=(3, 6))
    value = loss(maps(0, (3, 6)), maps(1))
    value.backward()
    assert all(adapter.weight.grad.abs().sum() > 0 for adapter in loss.adapters)


@pytest.mark.parametrize('name', ['pkd', 'mgd', 'lgd'])
def test_positions_without_weight_do_not_count(name):
    loss = build(name)
    student = [s.requires_grad_() for s in maps(0)]
    weights = [torch.zeros(2, *s.shape[2:], dtype=torch.float64) for s in student]
    assert loss(student, maps(1), weights).item() == 0
    ones = [torch.ones_like(w) for w in weights]
    values = []
    for given in (ones, None):
        torch.manual_seed(5)
        values.append(loss(student, maps(1), given))
    torch.testing.assert_close(*values)


@pytest.mark.parametrize('name', LOSSES)
def test_a_model_cast_to_bf16_is_compared_in_fp32(name):
    """As strategies do; its adapters are cast with it."""
    loss = build(name, channels=(3, 3)).bfloat16()
    student, teacher = (
        [feat.bfloat16() for feat in maps(seed, channels)]
        for seed, channels in ((0, (3, 3)), (1, (4, 4)))
    )
    value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert value > 0


@pytest.mark.parametrize('name', ['pkd', 'cwd', 'lgd'])
def test_equal_maps_of_one_place_are_finite(name):
    loss = build(name)
    feats = [torch.zeros(1, 4, 1, 1, dtype=torch.float64) for _ in range(2)]
    student = [f.clone().requires_grad_() for f in feats]
    value = loss(student, feats)
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(s.grad).all() for s in student)


@pytest.mark.parametrize('name', ['pkd', 'cwd'])
def test_scale_and_shift_of_a_channel(name):
    """PKD sees neither; CWD no shift."""
    loss, student, teacher = build(name), maps(0), maps(1)
    before = loss(student, teacher)
    shifted = [s + torch.arange(4.0).view(4, 1, 1) for s in student]
    torch.testing.assert_close(loss(shifted, teacher), before)
    scaled = loss([3 * s for s in student], teacher)
    same = torch.isclose(scaled, before, rtol=1e-4)
    assert same if name == 'pkd' else not same


@pytest.mark.parametrize('name', LOSSES)
def test_as_feature_term_of_frskd(name):
    cfg = toy_frskd_cfg()
    cfg['feature_loss'] = dict(type=f'frskd_mm.{LOSSES[name].__name__}')
    model = MODELS.build(
        dict(type='frskd_mm.Distilled', student=toy_student_cfg(), distiller=cfg)
    )
    model.init_weights()
    losses = model(**toy_batch(), mode='loss')
    assert losses[f'loss_{name}'] > 0
    model.parse_losses(losses)[0].backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
