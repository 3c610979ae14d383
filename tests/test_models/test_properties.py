"""What holds for necks and losses whatever the shapes, types and magnitudes.

The inputs are searched by hypothesis, the same ones in every run.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frskd_mm.models.losses import (
    AttentionTransferLoss,
    DetAttentionTransferLoss,
    DetSoftLabelLoss,
    FitNetLoss,
    OverhaulLoss,
    PixelSoftLabelLoss,
    SoftLabelLoss,
)
from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.necks import BiFPN, BiFPNc, BiFPNSeg

settings.register_profile(
    'repeatable',
    derandomize=True,
    deadline=None,
    max_examples=20,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile('repeatable')

DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
#: fp16 ends at 65504.
MAGNITUDES = st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 30.0, 1e3, 2e4])
SEEDS = st.integers(0, 2**16)
SIDES = st.integers(1, 9)
CHANNELS = st.integers(1, 6)
REDUCTIONS = st.sampled_from(['mean', 'sum', 'norm'])


def tensor(shape, seed, magnitude, dtype):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    limit = torch.finfo(dtype).max
    values = (magnitude * values).clamp(-limit, limit)
    return values.to(dtype).requires_grad_()


@st.composite
def logits(draw, dtypes=DTYPES, magnitudes=MAGNITUDES):
    """Draw two tensors of one shape, (N, C) or (N, C, H, W)."""
    shape = [draw(st.integers(1, 4)), draw(st.integers(2, 7))]
    if draw(st.booleans()):
        shape += [draw(SIDES), draw(SIDES)]
    dtype, seed = draw(dtypes), draw(SEEDS)
    one, other = (tensor(shape, seed + i, draw(magnitudes), dtype) for i in range(2))
    return one, other


@st.composite
def maps(draw, dtypes=DTYPES, magnitudes=MAGNITUDES):
    """Draw student's and teacher's maps of one to three levels."""
    dtype, seed, number = draw(dtypes), draw(SEEDS), draw(st.integers(1, 4))
    student, teacher = [], []
    for level in range(draw(st.integers(1, 3))):
        size = (draw(SIDES), draw(SIDES))
        for feats in (student, teacher):
            shape = (number, draw(CHANNELS), *size)
            index = seed + 2 * level + len(teacher)
            feats.append(tensor(shape, index, draw(magnitudes), dtype))
    return student, teacher


def channels_of(feats):
    return [feat.shape[1] for feat in feats]


def assert_sound(loss, student, teacher):
    """Require a finite scalar in fp32 or wider, and finite gradients."""
    assert loss.shape == ()
    assert loss.dtype in (torch.float32, torch.float64)
    assert torch.isfinite(loss)
    loss.backward()
    for value in student:
        assert value.grad is not None
        assert torch.isfinite(value.grad).all()
    assert all(value.grad is None for value in teacher)


@given(pair=logits(), temperature=st.sampled_from([0.5, 1.0, 4.0, 20.0]))
@pytest.mark.parametrize('kind', [SoftLabelLoss, PixelSoftLabelLoss])
def test_soft_labels_are_sound(kind, pair, temperature):
    student, teacher = pair
    arguments = {} if kind is SoftLabelLoss else dict(mask_ignored=False)
    loss = kind(temperature=temperature, **arguments)(student, teacher)
    # No less than 0, but for the rounding of logits so large.
    largest = max(student.abs().max().item(), teacher.abs().max().item())
    assert loss >= -1e-5 * temperature * max(1.0, largest)
    assert_sound(loss, [student], [teacher])


MODEST = st.sampled_from([1e-3, 1.0, 30.0])
DOUBLE = st.just(torch.float64)


@given(pair=logits(DOUBLE, MODEST), seed=SEEDS, shift=st.floats(-50, 50))
def test_soft_labels_have_the_invariances_of_a_softmax(pair, seed, shift):
    student, teacher = pair
    loss = SoftLabelLoss(temperature=4.0)
    value = loss(student, teacher)
    classes = torch.randperm(
        student.shape[1], generator=torch.Generator().manual_seed(seed)
    )
    for changed in (
        loss(student + shift, teacher),
        loss(student, teacher - shift),
        loss(student[:, classes], teacher[:, classes]),
        loss(student.flip(0), teacher.flip(0)),
        loss(torch.cat([student] * 2), torch.cat([teacher] * 2)),
    ):
        torch.testing.assert_close(changed, value, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        loss(student, student), torch.zeros_like(value), rtol=0, atol=1e-10
    )
    value.backward()
    # A shift of all logits changes nothing, so the gradients of classes sum to 0.
    sums = student.grad.sum(dim=1)
    torch.testing.assert_close(sums, torch.zeros_like(sums), rtol=0, atol=1e-9)


@given(pair=logits(), seed=SEEDS)
def test_positions_without_a_mask_do_not_count(pair, seed):
    student, teacher = pair
    generator = torch.Generator().manual_seed(seed)
    shape = (len(student), *student.shape[2:])
    mask = torch.rand(shape, generator=generator) < 0.5
    loss = SoftLabelLoss()
    value = loss(student, teacher, mask=mask)
    hidden = (~mask).unsqueeze(1)
    other = loss(student.detach().masked_fill(hidden, 7.0), teacher.detach(), mask=mask)
    torch.testing.assert_close(other, value.detach())
    assert_sound(value, [student], [teacher])
    assert (student.grad.masked_select(hidden) == 0).all()


@given(
    number=st.integers(1, 9),
    classes=st.integers(1, 5),
    form=st.sampled_from(['sigmoid', 'softmax', 'quality']),
    dtype=DTYPES,
    magnitude=MAGNITUDES,
    seed=SEEDS,
)
def test_soft_labels_of_detectors_are_sound(
    number, classes, form, dtype, magnitude, seed
):
    shapes = ((number, classes), (number, classes), (number,), (number,))
    cls, teacher_cls, quality, teacher_quality = (
        tensor(shape, seed + i, magnitude, dtype) for i, shape in enumerate(shapes)
    )
    head = SoftLabels(
        cls,
        teacher_cls,
        cls_form=form,
        student_quality=quality,
        teacher_quality=teacher_quality,
    )
    loss = DetSoftLabelLoss()([head])
    assert loss >= -1e-4 * max(1.0, magnitude)
    assert_sound(loss, [cls, quality], [teacher_cls, teacher_quality])


# A loss that does not depend on the scale has gradients of 1 / scale: fp16 cannot
# hold those of the smallest maps.
@given(
    feats=maps(magnitudes=MAGNITUDES.filter(lambda m: m != 1e-6)), reduction=REDUCTIONS
)
@pytest.mark.parametrize('kind', [AttentionTransferLoss, DetAttentionTransferLoss])
def test_attention_transfer_is_sound(kind, feats, reduction):
    student, teacher = feats
    loss = kind(loss_weight=1.0, reduction=reduction)(student, teacher)
    assert loss >= 0
    assert_sound(loss, student, teacher)


@given(feats=maps(DOUBLE, MODEST), reduction=REDUCTIONS, factor=st.floats(0.01, 100))
def test_attention_has_its_invariances(feats, reduction, factor):
    student, teacher = feats
    loss = AttentionTransferLoss(loss_weight=1.0, reduction=reduction)
    value = loss(student, teacher)
    for changed in (
        loss([factor * feat for feat in student], teacher),  # scale
        loss(student, [-factor * feat for feat in teacher]),  # and sign
        loss([feat.flip(1) for feat in student], teacher),  # order of channels
        loss([torch.cat([f, f], 1) for f in student], teacher),  # their number
        loss([f.flip(0) for f in student], [f.flip(0) for f in teacher]),  # images
        loss([f.mT for f in student], [f.mT for f in teacher]),  # positions, of both
    ):
        torch.testing.assert_close(changed, value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        loss(student, student), torch.zeros_like(value), rtol=0, atol=1e-9
    )


@given(feats=maps(st.sampled_from([torch.float32, torch.bfloat16]), MODEST))
@pytest.mark.parametrize(
    ('kind', 'settings_of'),
    [(FitNetLoss, {}), (OverhaulLoss, dict(margin='batch'))],
    ids=['FitNetLoss', 'OverhaulLoss'],
)
def test_losses_with_adapters_are_sound(kind, settings_of, feats):
    student, teacher = feats
    if any(feat.numel() == feat.shape[1] for feat in student):
        return  # a BN needs more than one value a channel
    loss = kind(channels_of(student), channels_of(teacher), **settings_of)
    value = loss(student, teacher)
    assert value >= 0
    assert_sound(value, student, teacher)
    for parameter in loss.parameters():
        assert torch.isfinite(parameter.grad).all()


@st.composite
def levels(draw, equal=False):
    """Draw what a neck refines: two to four maps of any sizes."""
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
    seed, magnitude = draw(SEEDS), draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    number, channels = draw(st.integers(2, 3)), draw(CHANNELS)
    return [
        tensor(
            (number, channels if equal else draw(CHANNELS), draw(SIDES), draw(SIDES)),
            seed + level,
            magnitude,
            dtype,
        )
        for level in range(draw(st.integers(2, 4)))
    ]


def build_neck(kind, feats, num_layers, mode):
    torch.manual_seed(0)
    seg = dict(last_bottom_up=True)
    arguments = seg if kind is BiFPNSeg else dict(upsample_mode=mode)
    if kind is BiFPN:
        arguments['out_channels'] = 5
    neck = kind(channels_of(feats), num_layers=num_layers, **arguments)
    return neck.to(feats[0].dtype)


@given(
    data=st.data(),
    num_layers=st.integers(1, 2),
    mode=st.sampled_from(['nearest', 'bilinear']),
)
@pytest.mark.parametrize('kind', [BiFPN, BiFPNc, BiFPNSeg])
def test_necks_are_sound(kind, data, num_layers, mode):
    feats = data.draw(levels(equal=kind is BiFPNSeg))
    neck = build_neck(kind, feats, num_layers, mode)
    refined = neck(feats)
    assert len(refined) == len(feats)
    for feat, out, channels in zip(feats, refined, neck.out_channels):
        assert out.shape == (len(feat), channels, *feat.shape[2:])
        assert out.dtype == feat.dtype
        assert torch.isfinite(out).all()
        assert (out >= 0).all()
    sum(out.sum() for out in refined).backward()
    for feat in feats:
        assert torch.isfinite(feat.grad).all()
    for name, parameter in neck.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name


@given(data=st.data())
@pytest.mark.parametrize('kind', [BiFPN, BiFPNc, BiFPNSeg])
def test_necks_refine_every_image_alone_when_they_predict(kind, data):
    feats = data.draw(levels(equal=kind is BiFPNSeg))
    feats = [feat.detach().double().requires_grad_() for feat in feats]
    neck = build_neck(kind, feats, 1, 'nearest').eval()
    whole = neck(feats)
    turned = neck([feat.flip(0) for feat in feats])
    single = neck([feat[:1] for feat in feats])
    for out, reversed_out, first in zip(whole, turned, single):
        torch.testing.assert_close(reversed_out.flip(0), out)
        torch.testing.assert_close(first, out[:1])
