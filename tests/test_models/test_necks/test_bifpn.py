"""BiFPN and BiFPNc against the plain equations."""

from copy import deepcopy
from itertools import product
from typing import List, NamedTuple, Tuple

import pytest
import reference
import torch
from contracts import Case, NeckContract, random_maps, scalar_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from frskd_mm.models.necks import BiFPN, BiFPNc
from frskd_mm.models.necks.layers import Pointwise

NECKS = {
    'BiFPNc': lambda channels, **kwargs: BiFPNc(channels, **kwargs),
    'BiFPN': lambda channels, **kwargs: BiFPN(channels, out_channels=6, **kwargs),
}

# Name -> (batch, sizes from fine to coarse).
SIZES = {
    'two_levels': (2, [(8, 8), (4, 4)]),
    'three_levels': (2, [(16, 16), (8, 8), (4, 4)]),
    'odd': (2, [(25, 25), (13, 13), (7, 7)]),
    'non_square': (2, [(12, 21), (6, 11), (3, 6)]),
    'equal_strides': (2, [(9, 7), (5, 4), (5, 4), (5, 4)]),
    'batch_of_one': (1, [(10, 10), (5, 5), (3, 3)]),
    'five_levels_to_one_pixel': (3, [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)]),
    'stride_four': (2, [(16, 16), (4, 4), (2, 2)]),
    'uneven_strides': (2, [(10, 12), (7, 12), (3, 6)]),
}


class Maps(NamedTuple):
    """What a neck is given, and how it runs.

    Attributes:
        negative: Whether one fusion weight is, so that its map must not count.
    """

    batch: int
    channels: List[int]
    sizes: List[Tuple[int, int]]
    training: bool = True
    negative: bool = True


def build(kind, channels, negative=True, **kwargs):
    """Build a neck in float64 with random values wherever there is a parameter."""
    neck = NECKS[kind](channels, **kwargs).double()
    with torch.no_grad():
        for module in neck.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 2.0)
        for name, param in neck.named_parameters():
            if 'fusions' in name:
                param.uniform_(0.2, 1.5)
    if negative:
        neck.layers[0].bottom_up_fusions[0].weight.data[0] = -0.4
    return neck


def bifpn_cases():
    """Every size, mode and number of layers, in training and evaluation."""
    small = (2, [2, 3, 4], [(8, 8), (4, 4), (2, 2)])
    cases = {
        'plain': Case(dict(), Maps(*small, negative=False)),
        'stacked': Case(
            dict(num_layers=2, upsample_mode='bilinear'),
            Maps(2, [2, 3, 4], [(9, 8), (5, 4), (3, 2)], negative=False),
        ),
    }
    for mode, training in product(['nearest', 'bilinear'], [True, False]):
        suffix = f'{mode}-{"train" if training else "eval"}'
        for name, (batch, sizes) in SIZES.items():
            maps = Maps(batch, [2, 3, 5, 4, 3][: len(sizes)], sizes, training)
            cases[f'{name}-{suffix}'] = Case(dict(upsample_mode=mode), maps)
        for number in (2, 3):
            stacked = dict(num_layers=number, upsample_mode=mode)
            maps = Maps(2, [2, 3, 4], [(9, 8), (5, 4), (3, 2)], training)
            cases[f'{number}_layers-{suffix}'] = Case(stacked, maps)
    for depth in (1, 3):
        cases[f'depth_{depth}'] = Case(dict(depth=depth), Maps(*small))
    return cases


class BiFPNContract(NeckContract):
    cases = bifpn_cases()
    main = ['plain', 'stacked']
    wrong_settings = [
        (dict(in_channels=[4]), r'at least two feature maps.*out_indices'),
        (dict(in_channels=64), r'in_channels of .* must be a list .*got 64'),
        (dict(depth=0), r'depth of .* must be >= 1, got 0'),
        (dict(depth='2'), r"depth of .* must be a whole number, got '2'"),
        (dict(out_channels=[8]), r'out_channels of|no out_channels'),
        (dict(num_layers=0), r'num_layers of .* must be >= 1, got 0'),
        (dict(last_bottom_up=3), r'last_bottom_up of .* must be .* 0 to 2, got 3'),
        (dict(upsample_mode='cubic'), r"one of \('nearest', 'bilinear'\), got 'cubic'"),
    ]
    wrong_inputs = [
        (channels, r'in_channels=\[2, 3, 4\] but received maps')
        for channels in ([2], [2, 3, 5], [2, 3, 4, 4])
    ]

    def build(self, case, device='cpu', dtype=None):
        if {'in_channels', 'out_channels'} & set(case.settings):
            return self.component(**{'in_channels': [4, 8], **case.settings})
        maps = case.data
        neck = build(
            self.component.__name__, maps.channels, maps.negative, **case.settings
        )
        return neck.train(maps.training).to(device, dtype)

    def feats(self, case, device='cpu'):
        return random_maps(case.data.batch, case.data.channels, case.data.sizes, device)

    def expected(self, neck, feats, case):
        mode = case.settings.get('upsample_mode', 'nearest')
        residual = case.settings.get('residual', False)
        params = reference.neck_params(neck)
        return reference.bifpn(feats, params, mode, neck.training, residual)


class TestBiFPN(BiFPNContract):
    component = BiFPN
    cases = {
        **BiFPNContract.cases,
        'residual': Case(
            dict(residual=True), Maps(2, [6, 6, 6], [(9, 8), (5, 4), (3, 2)])
        ),
    }


class TestBiFPNc(BiFPNContract):
    component = BiFPNc
    cases = {
        **BiFPNContract.cases,
        **{
            f'width_{width}': Case(
                dict(width=width), Maps(2, [2, 4, 6], [(8, 8), (4, 4), (2, 2)])
            )
            for width in (0.5, 1, 3)
        },
        **{
            f'residual_{number}_layers': Case(
                dict(width=1, residual=True, num_layers=number),
                Maps(2, [2, 3, 4], [(9, 8), (5, 4), (3, 2)]),
            )
            for number in (1, 2)
        },
    }
    wrong_settings = [
        *BiFPNContract.wrong_settings,
        (dict(width=0), 'width of BiFPNc must be positive, got 0'),
        (dict(out_channels=16), 'no out_channels: they are width'),
        (dict(residual=True), r'\[4, 6, 8\] channels of \[2, 3, 4\].*width=1'),
        (
            dict(width=1, residual=True, norm_cfg=dict(type='IN')),
            'norms whose weight is 0, but IN has none',
        ),
    ]

    @pytest.mark.parametrize('width', [0.5, 1, 3])
    def test_width_multiplies_each_level(self, width):
        assert BiFPNc([2, 4, 6], width=width).out_channels == [
            int(width * channels) for channels in (2, 4, 6)
        ]


@pytest.mark.parametrize('num_layers', [1, 2])
@pytest.mark.parametrize('last_bottom_up', [0, 1, 2])
@pytest.mark.parametrize('kind', NECKS)
def test_shortened_bottom_up_pass_gives_the_same_maps_up_to_its_end(
    kind, last_bottom_up, num_layers
):
    """Beyond its end T_i = P_i, and no parameter is left without a use."""
    channels, maps = [2, 3, 4], [(8, 8), (4, 4), (2, 2)]
    whole = build(kind, channels, num_layers=num_layers).eval()
    short = NECKS[kind](
        channels, num_layers=num_layers, last_bottom_up=last_bottom_up
    ).double()
    short.eval().load_state_dict(whole.state_dict(), strict=False)
    feats = random_maps(2, channels, maps)
    expected = whole(feats)[: last_bottom_up + 1]
    outs = short(feats)
    assert [out.shape for out in outs] == [out.shape for out in whole(feats)]
    torch.testing.assert_close(outs[: last_bottom_up + 1], expected)
    # Raises if a parameter has no use.
    torch.autograd.grad(scalar_of(outs), list(short.parameters()))


@pytest.mark.parametrize('kind', NECKS)
def test_maps_beyond_the_bottom_up_pass_are_those_of_the_top_down_pass(kind):
    channels, maps = [2, 3, 4, 2], [(8, 8), (4, 4), (2, 2), (1, 1)]
    neck = NECKS[kind](channels, last_bottom_up=1).double()
    feats, tops = random_maps(3, channels, maps), {}
    for level, conv in enumerate(neck.layers[0].top_down_convs):
        conv.register_forward_hook(lambda m, x, y, i=level: tops.update({i: y}))
    outs = neck(feats)
    # The activation overwrites the map.
    assert outs[2] is tops[2]
    assert not torch.equal(outs[1], tops[1])
    lateral = neck.layers[0].laterals[3](feats[3])
    torch.testing.assert_close(outs[3], lateral)


@pytest.mark.parametrize('num_layers', [1, 2])
def test_residual_neck_begins_with_the_maps_that_it_is_given(num_layers):
    neck = BiFPNc([2, 3, 4], width=1, num_layers=num_layers, residual=True)
    neck.init_weights()
    feats = random_maps(2, [2, 3, 4], [(8, 8), (4, 4), (2, 2)])
    outs = neck.double()(feats)
    torch.testing.assert_close(outs, tuple(feats), rtol=0, atol=0)
    # It can leave that state.
    grads = torch.autograd.grad(
        scalar_of(outs), [norm.weight for norm in neck.layers[-1].output_norms]
    )
    assert all(grad.abs().max() > 0 for grad in grads)


@pytest.mark.parametrize('last_bottom_up', [0, 1, 2])
def test_residual_neck_leaves_no_parameter_without_a_use(last_bottom_up):
    """Where only the coarsest reached level is read, as a classifier does."""
    neck = BiFPNc([2, 3, 4], width=1, residual=True, last_bottom_up=last_bottom_up)
    feats = random_maps(2, [2, 3, 4], [(8, 8), (4, 4), (2, 2)])
    outs = neck.double()(feats)
    torch.autograd.grad(outs[last_bottom_up].sum(), list(neck.parameters()))


def test_groups_of_a_norm_fit_the_channels():
    """An FPN of 48 channels, with the 32 groups of the detection recipe."""
    neck = BiFPNc([48, 64], width=1, norm_cfg=dict(type='GN', num_groups=32))
    groups = {m.num_groups for m in neck.modules() if isinstance(m, nn.GroupNorm)}
    assert groups == {16, 32}


def test_default_width_is_two():
    assert BiFPNc([16, 32]).out_channels == [32, 64]
    assert BiFPN([16, 32]).out_channels == [256, 256]


def test_running_statistics_follow_the_equations():
    """Only the variance of a PW that runs before its upsampling differs.

    By the unbiased factor n / (n - 1): n is the small map's number of values there.
    """
    channels, maps, batch = [2, 3, 4], [(8, 8), (4, 4), (2, 2)], 2
    neck = build('BiFPNc', channels)
    before = {name: buffer.clone() for name, buffer in neck.named_buffers()}
    feats = random_maps(batch, channels, maps)
    neck(feats)

    params = reference.neck_params(neck)[0]
    lateral = [reference.pw(feats[i], params.lateral[i], True) for i in range(3)]
    buffers = dict(neck.named_buffers())
    resized = reference.up(lateral[2], maps[1], 'nearest')
    conv = reference.conv1x1(resized, params.up[1].kernel)
    n = batch * maps[2][0] * maps[2][1]
    name = 'layers.0.upsamples.1.project.1.running_'
    torch.testing.assert_close(
        buffers[f'{name}mean'],
        0.9 * before[f'{name}mean'] + 0.1 * conv.mean(dim=(0, 2, 3)),
    )
    torch.testing.assert_close(
        buffers[f'{name}var'],
        0.9 * before[f'{name}var']
        + 0.1 * conv.var(dim=(0, 2, 3), unbiased=False) * n / (n - 1),
    )


def test_norm_and_activation_configs_are_used():
    neck = BiFPNc(
        [4, 8],
        num_layers=2,
        norm_cfg=dict(type='GN', num_groups=2),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.5, inplace=True),
    )
    kinds = {type(module) for module in neck.modules()}
    assert {nn.GroupNorm, nn.LeakyReLU} <= kinds
    assert not {nn.BatchNorm2d, nn.ReLU} & kinds
    feats = [torch.randn(1, 4, 6, 6), torch.randn(1, 8, 3, 3)]
    kept = [feat.clone() for feat in feats]
    outs = neck(feats)
    torch.testing.assert_close(feats, kept)
    assert all((out < 0).any() for out in outs)


@pytest.mark.parametrize('act', ['ReLU', 'LeakyReLU', 'SiLU'])
@pytest.mark.parametrize('norm', [dict(type='BN'), dict(type='GN', num_groups=2)])
def test_weight_within_the_norm_equals_a_weight_on_the_map(act, norm):
    """Outputs and gradients, also where the weight cannot move into the norm."""
    layer = Pointwise(3, 4, norm_cfg=norm, act_cfg=dict(type=act)).double()
    nn.init.normal_(layer[1].weight)
    nn.init.normal_(layer[1].bias)
    feat = torch.randn(2, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    for weight in (torch.tensor(0.3), torch.tensor(0.0), torch.rand(4)):
        weight = weight.double().requires_grad_()
        variables = [feat, weight, *layer.parameters()]
        outs = layer(feat, weight), weight.reshape(-1, 1, 1) * layer(feat)
        torch.testing.assert_close(*outs)
        if weight.dim() == 0 and weight == 0:
            continue  # the activation has another subgradient at zero
        grads = [torch.autograd.grad(scalar_of([out]), variables) for out in outs]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize('detached', [True, False])
@pytest.mark.parametrize('kind', NECKS)
def test_recomputation_changes_nothing_but_what_is_kept(kind, detached):
    """Outputs, gradients and running statistics; fewer maps are saved."""
    channels, maps = [2, 3, 4], [(8, 8), (4, 4), (2, 2)]
    kept = build(kind, channels, num_layers=2)
    recomputed = NECKS[kind](channels, num_layers=2, with_cp=True).double()
    recomputed.load_state_dict(kept.state_dict())
    feats = random_maps(2, channels, maps)
    results, saved = [], []
    for neck in (kept, recomputed):
        inputs = [feat.detach() for feat in feats] if detached else feats
        variables = [*([] if detached else feats), *neck.parameters()]
        number = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x, n=number: n.append(x.numel()) or x, lambda x: x
        ):
            outs = neck(inputs)
        grads = torch.autograd.grad(scalar_of(outs), variables)
        results.append([*outs, *grads, *neck.state_dict().values()])
        saved.append(sum(number))
    for one, other in zip(*results):
        assert torch.equal(one, other)
    assert saved[1] < saved[0] / 2


class Restored(TorchDispatchMode):
    """Counts the norms whose number of batches is put back."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        is_counter = func is torch.ops.aten.copy_.default and args[0].dim() == 0
        self.number += is_counter and args[0].dtype == torch.long
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('kind', NECKS)
def test_recomputation_puts_back_the_norms_that_it_runs(kind):
    """Not all of the layer's for each of its nodes."""
    channels, maps = [2, 3, 4], [(8, 8), (4, 4), (2, 2)]
    neck = NECKS[kind](channels, num_layers=2, with_cp=True).double()
    outs, run = neck(random_maps(2, channels, maps)), []
    for norm in neck.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(lambda norm, *args: run.append(norm))
    with Restored() as restored:
        scalar_of(outs).backward()
    assert restored.number == len(run) == len(set(run)) > 0


def test_statistics_move_once_a_forward_when_the_norm_is_weighed():
    layer = Pointwise(3, 4, norm_cfg=dict(type='BN'), act_cfg=dict(type='ReLU'))
    plain = deepcopy(layer)
    feat = torch.randn(2, 3, 5, 4)
    layer(feat, torch.tensor(0.5)), plain(feat)
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, layer.get_buffer(name)), name


def test_init_cfg_is_used():
    neck = BiFPNc([4, 8], init_cfg=dict(type='Constant', layer='Conv2d', val=0.25))
    neck.init_weights()
    for module in neck.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.weight == 0.25).all()


def test_default_initialisation_is_kept():
    """The authors' code leaves PyTorch's, and so does ``init_weights``."""
    neck = BiFPN([4, 8])
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    neck.init_weights()
    for name, value in neck.state_dict().items():
        assert torch.equal(value, before[name]), name
