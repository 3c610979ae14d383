"""WideResNet against a plain functional version."""

import pytest
import reference
import torch
from torch import nn

from frskd_mm.models.backbones import WideResNet
from frskd_mm.registry import MODELS


def named_tensors(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize('training', [True, False], ids=['train', 'eval'])
@pytest.mark.parametrize(('depth', 'widen_factor'), [(10, 1), (16, 2), (22, 1)])
def test_equals_a_plain_version(depth, widen_factor, training):
    model = WideResNet(depth, widen_factor, out_indices=(0, 1, 2)).double()
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.train(training)
    images = torch.randn(2, 3, 12, 16, dtype=torch.float64, requires_grad=True)
    variables = [images, *model.parameters()]

    expected = reference.wide_resnet(images, named_tensors(model), training)
    expected_grads = torch.autograd.grad(
        sum(f.pow(2).sum() for f in expected), variables
    )
    outs = model(images)
    grads = torch.autograd.grad(sum(f.pow(2).sum() for f in outs), variables)
    torch.testing.assert_close(list(outs), expected, rtol=1e-8, atol=1e-8)
    for grad, wanted in zip(grads, expected_grads):
        scale = wanted.abs().max().item()
        torch.testing.assert_close(grad, wanted, rtol=1e-7, atol=1e-9 * max(scale, 1))


@pytest.mark.parametrize('out_indices', [(2,), (0, 2), (0, 1, 2)])
def test_returns_the_post_relu_features_asked_for(out_indices):
    outs = WideResNet(16, 2, out_indices=out_indices)(torch.randn(2, 3, 32, 32))
    shapes = [(2, 32, 32, 32), (2, 64, 16, 16), (2, 128, 8, 8)]
    assert [out.shape for out in outs] == [shapes[i] for i in out_indices]
    for out in outs:
        assert (out >= 0).all()
        assert (out == 0).any()


def test_wrn_16_2_has_16_layers_of_the_published_widths():
    model = WideResNet(16, 2)
    kernels = [m.weight.shape for m in model.modules() if isinstance(m, nn.Conv2d)]
    shapes, widths = [(16, 3, 3, 3)], [16, 32, 64, 128]
    for before, after in zip(widths, widths[1:]):
        shapes += [(after, before, 3, 3), (after, after, 3, 3), (after, before, 1, 1)]
        shapes += [(after, after, 3, 3)] * 2
    assert [tuple(kernel) for kernel in kernels] == shapes
    norms = [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms == [32] * 3 + [64] * 3 + [128] * 3


def test_initialisation_is_he_over_outputs():
    model = WideResNet(10, 4)
    for param in model.parameters():
        nn.init.constant_(param, 7.0)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            std = (2 / fan_out) ** 0.5
            assert module.weight.std().item() == pytest.approx(std, rel=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


def test_dropout_acts_in_training_only():
    model = WideResNet(10, 1, drop_rate=0.5)
    images = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(images)[0], model(images)[0])
    model.eval()
    assert torch.equal(model(images)[0], model(images)[0])


@pytest.mark.parametrize('depth', [4, 11, 18])
def test_refuses_an_impossible_depth(depth):
    with pytest.raises(ValueError, match=rf'6 \* n \+ 4 .*got {depth}'):
        MODELS.build(dict(type='WideResNet', depth=depth))


@pytest.mark.parametrize('out_indices', [(), (3,), (-1, 2)])
def test_refuses_impossible_out_indices(out_indices):
    with pytest.raises(ValueError, match=r'taken from \(0, 1, 2\), got'):
        MODELS.build(dict(type='WideResNet', out_indices=out_indices))
