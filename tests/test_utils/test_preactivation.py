"""Maps before their ReLU, found without changing the model."""

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from mmengine.runner import turn_on_activation_checkpointing
from torch import nn
from toys import toy_student_cfg

from frskd_mm.utils.preactivation import PreactRecorder, ReLUInputs


@pytest.mark.parametrize(
    'relu',
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        F.relu,
        torch.relu,
        torch.relu_,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        lambda x: F.relu(input=x),
    ],
)
def test_every_relu_is_seen(relu):
    weight = torch.tensor([1.0], requires_grad=True)
    x = torch.tensor([-2.0, 0.0, 3.0])
    with ReLUInputs() as inputs:
        output = relu(x * weight)
    assert output.tolist() == [0, 0, 3]
    before = inputs.of(output)
    assert before.tolist() == [-2, 0, 3]
    before.sum().backward()
    assert weight.grad.item() == 1


def test_a_map_that_no_relu_made_is_returned_as_it_is():
    x = torch.randn(3)
    with ReLUInputs() as inputs:
        output = torch.sigmoid(x)
    assert inputs.of((output,))[0] is output


@pytest.mark.parametrize('training', [True, False])
def test_maps_of_a_backbone(training):
    """Every level of ResNet ends with an in-place ReLU."""
    backbone = MODELS.build(toy_student_cfg()['backbone'] | {'_scope_': 'mmpretrain'})
    backbone.train(training)
    image = torch.randn(2, 3, 16, 16)
    expected = backbone(image)
    with PreactRecorder({'feats': (backbone, 'forward')}) as record:
        backbone(image)
    assert len(record.last('preacts')) == 4
    for feat, preact, plain in zip(
        record.last('feats'), record.last('preacts'), expected
    ):
        assert preact.min() < 0
        assert torch.equal(preact.relu(), feat)
        if not training:
            assert torch.equal(feat, plain)
    assert 'forward' not in backbone.__dict__


def test_without_gradients_no_more_is_held_than_the_maps_own():
    """A teacher's pass would otherwise take the memory of a training step."""
    backbone = MODELS.build(toy_student_cfg()).backbone
    with torch.no_grad(), ReLUInputs() as inputs:
        feats = backbone(torch.randn(2, 3, 16, 16))
    assert len(inputs._inputs) == len(feats) == 4
    assert all(before.min() < 0 for before in inputs.of(feats))


def test_maps_without_gradient_before_their_relu_are_refused():
    """A loss on them would train nothing."""
    model = MODELS.build(toy_student_cfg())
    turn_on_activation_checkpointing(model, ['backbone'])
    image = torch.randn(2, 3, 16, 16, requires_grad=True)
    with PreactRecorder({'feats': (model.backbone, 'forward')}) as record:
        with pytest.raises(RuntimeError, match='Remove activation_checkpointing'):
            model.extract_feat(image)
        with torch.no_grad():
            model.extract_feat(image)
    assert record.last('preacts')[-1].min() < 0
