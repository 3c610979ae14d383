"""The authors' light BiFPN against its equations, and their backbone."""

import pytest
import torch
import torch.nn.functional as F
from contracts import Case, NeckContract, random_maps

from frskd_mm.models import BiFPNSeg, FPNBiFPNSeg
from frskd_mm.models.necks.refining import learn_neck
from frskd_mm.registry import MODELS

SIZES = [(13, 17), (7, 9), (4, 5), (2, 3)]


def dw(block, x):
    """1x1 depthwise convolution, batch norm in training mode, ReLU."""
    x = x * block.conv.weight[None, :, 0]
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    shape = (1, -1, 1, 1)
    x = (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt()
    return (x * block.bn.weight.view(shape) + block.bn.bias.view(shape)).clamp(min=0)


def up(x, target):
    return F.interpolate(x, size=target.shape[2:], mode='bilinear')


def down(x, target):
    """Nearest: output i takes input floor(i * H / h)."""
    rows = torch.arange(target.shape[2]) * x.shape[2] // target.shape[2]
    columns = torch.arange(target.shape[3]) * x.shape[3] // target.shape[3]
    return x[:, :, rows][:, :, :, columns]


def layer_by_equations(layer, f):
    """P top-down, T bottom-up; T = P where there is no bottom-up pass."""
    n = len(f)
    p = {n - 1: dw(layer.top_down[n - 1], f[n - 1])}
    for i in range(n - 2, -1, -1):
        p[i] = dw(layer.top_down[i], f[i] + up(p[i + 1], f[i]))
    t = dict(p)
    if layer.bottom_up is not None:
        for i in range(1, n):
            t[i] = dw(layer.bottom_up[i - 1], f[i] + p[i] + down(t[i - 1], f[i]))
    return [t[i] for i in range(n)]


class TestBiFPNSeg(NeckContract):
    component = BiFPNSeg
    cases = {
        'top-down end': Case(dict(num_layers=2, last_bottom_up=False), None),
        'bottom-up end': Case(dict(num_layers=2, last_bottom_up=True), None),
    }
    main = list(cases)
    wrong_settings = [
        (dict(in_channels=[4, 8]), 'all in_channels must be equal'),
        (dict(in_channels=[4]), 'at least two'),
        (dict(num_layers=0), 'num_layers of BiFPNSeg'),
    ]
    wrong_inputs = [
        (channels, r'in_channels=\[4, 4, 4, 4\] but received maps')
        for channels in ([4] * 3, [4, 4, 4, 5], [4] * 5)
    ]

    def build(self, case, device='cpu', dtype=None):
        neck = BiFPNSeg(**{'in_channels': [4] * 4, **case.settings})
        for parameter in neck.parameters():
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        return neck.to(device, dtype)

    def feats(self, case, device='cpu'):
        return random_maps(2, [4] * 4, SIZES, device)

    def expected(self, neck, feats, case):
        for layer in neck.layers:
            feats = layer_by_equations(layer, feats)
        return feats


@pytest.mark.parametrize('channels', [[3, 5, 7], [3, 5, 7, 8]])
def test_the_published_students_neck_names_other_maps(channels):
    """It left out what it had no lateral for."""
    neck = FPNBiFPNSeg([3, 5, 7, 9], out_channels=6)
    feats = [torch.randn(2, c, *size) for c, size in zip(channels, SIZES)]
    with pytest.raises(ValueError, match=r'in_channels=\[3, 5, 7, 9\] but received'):
        neck(feats)


def test_published_student_neck_adds_two_levels():
    channels = [3, 5, 7, 9]
    neck = FPNBiFPNSeg(channels, out_channels=6)
    feats = [torch.randn(2, c, *size) for c, size in zip(channels, SIZES)]
    outs = neck(feats)
    assert [tuple(out.shape) for out in outs] == [
        (2, 6, *size) for size in [*SIZES, (1, 2), (1, 1)]
    ]
    # Coarse levels inform the finest one.
    feats[-1].requires_grad_()
    neck(feats)[0].sum().backward()
    assert feats[-1].grad.abs().sum() > 0


@pytest.mark.parametrize('arch', ['b0', 'b1'])
def test_efficientnet_keeps_what_is_read(arch):
    efficientnet = pytest.importorskip('mmpretrain.models').EfficientNet
    backbone = MODELS.build(dict(type='frskd_mm.EfficientNetFeatures', arch=arch))
    full = efficientnet(arch=arch, out_indices=(2, 3, 4, 5))
    keys = full.load_state_dict(backbone.state_dict(), strict=False)
    assert not keys.unexpected_keys
    assert all(key.startswith('layers.6.') for key in keys.missing_keys)
    image = torch.randn(1, 3, 64, 64)
    backbone.eval()
    full.eval()
    feats = backbone(image)
    assert [tuple(feat.shape[1:]) for feat in feats] == [
        (24, 16, 16),
        (40, 8, 8),
        (112, 4, 4),
        (320, 2, 2),
    ]
    for feat, expected in zip(feats, full(image)):
        assert torch.equal(feat, expected)


def test_what_a_reader_of_coarser_maps_leaves_without_a_gradient_is_frozen():
    """DistributedDataParallel would wait for it."""
    neck = BiFPNSeg([4, 4, 4])
    assert learn_neck(neck, [(4, 8, 8), (4, 4, 4), (4, 2, 2)], [1]) == [4, 4, 4]
    feats = [torch.randn(2, 4, size, size) for size in (8, 4, 2)]
    neck(feats)[1].sum().backward()
    trained = {n for n, p in neck.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in neck.named_parameters() if p.grad is not None}
    assert len(trained) == 21  # of 24: not the last node of the finest map
