"""Recording what methods return."""

import pickle
from copy import deepcopy
from types import MethodType

import pytest
import torch
from mmengine.runner import turn_on_activation_checkpointing
from torch import nn
from toys import needs_tracing, toy_batch, toy_distilled

from frskd_mm.utils.recorder import (
    Recorder,
    Replayer,
    bind_forward,
    shadow,
    unshadow,
)


class Doubler(nn.Module):
    def forward(self, x, extra=0):
        return 2 * x + extra


class Plain:
    def answer(self):
        return 42


@pytest.mark.parametrize('call', ['module', 'forward'])
def test_records_modules_however_they_are_called(call):
    module = Doubler()
    with Recorder({'out': (module, 'forward')}) as record:
        run = module if call == 'module' else module.forward
        given = run(torch.tensor(3.0), extra=1)
    assert given.item() == 7
    assert record.last('out') is given


def test_records_every_call_and_several_targets():
    module, plain = Doubler(), Plain()
    targets = {'out': (module, 'forward'), 'answer': (plain, 'answer')}
    with Recorder(targets) as record:
        for value in (1.0, 2.0, 3.0):
            module(torch.tensor(value))
        plain.answer()
    assert [out.item() for out in record.outputs['out']] == [2, 4, 6]
    assert record.last('out').item() == 6
    assert record.outputs['answer'] == [42]


def test_gradients_flow_through_what_was_recorded():
    module, x = Doubler(), torch.tensor(3.0, requires_grad=True)
    with Recorder({'out': (module, 'forward')}) as record:
        module(x)
    record.last('out').backward()
    assert x.grad.item() == 2


def test_leaves_the_instance_as_it_was():
    module, plain = Doubler(), Plain()
    before = (set(module.__dict__), set(plain.__dict__))
    with Recorder({'a': (module, 'forward'), 'b': (plain, 'answer')}) as record:
        module(torch.tensor(1.0))
    module(torch.tensor(1.0))
    assert (set(module.__dict__), set(plain.__dict__)) == before
    assert len(record.outputs['a']) == 1


def test_leaves_the_instance_as_it_was_after_an_error():
    module = Doubler()
    with pytest.raises(TypeError), Recorder({'a': (module, 'forward')}):
        module(None)
    assert 'forward' not in module.__dict__


def test_another_instance_is_not_recorded():
    first, second = Doubler(), Doubler()
    with Recorder({'out': (first, 'forward')}) as record:
        second(torch.tensor(1.0))
    with pytest.raises(RuntimeError, match=r'Doubler.forward was not called.*"source"'):
        record.last('out')


def test_recordings_of_one_object_cannot_be_nested():
    module = Doubler()
    with Recorder({'out': (module, 'forward')}) as record:
        with pytest.raises(RuntimeError, match='Doubler.forward is shadowed already'):
            Recorder({'again': (module, 'forward')}).__enter__()
        module(torch.tensor(1.0))
    assert record.last('out').item() == 2


def test_replays_given_values_call_by_call():
    module, plain = Doubler(), Plain()
    targets = {'out': (module, 'forward'), 'answer': (plain, 'answer')}
    with Replayer(targets, {'out': ['a', 'b'], 'answer': [7]}):
        assert [module(1), module.forward(2)] == ['a', 'b']
        assert plain.answer() == 7
    assert module(torch.tensor(1.0)).item() == 2
    assert plain.answer() == 42


def test_shadow_and_unshadow():
    plain = Plain()
    shadow(plain, 'answer', lambda: 1)
    assert plain.answer() == 1
    unshadow(plain, 'answer')
    unshadow(plain, 'answer')
    assert plain.answer() == 42


def test_what_others_set_on_the_instance_is_recorded_and_put_back():
    plain = Plain()
    plain.answer = answer = lambda: 1
    with Recorder({'answer': (plain, 'answer')}) as record:
        plain.answer()
    assert record.last('answer') == 1
    assert plain.__dict__ == {'answer': answer}


@pytest.mark.parametrize('detached', [True, False])
def test_activation_checkpointing_of_mmengine(detached):
    """It sets a function as the backbone's ``forward``."""
    model, batch = toy_distilled(detach_inputs=detached), toy_batch()
    checkpointed = deepcopy(model)
    turn_on_activation_checkpointing(checkpointed, ['backbone'])
    # MMEngine's needs an input with gradient to give the backbone its own.
    batch['inputs'].requires_grad_()
    terms = []
    for either in (model, checkpointed):
        losses = either(**batch, mode='loss')
        either.parse_losses(losses)[0].backward()
        terms.append(losses)
    assert terms[0].keys() == terms[1].keys()
    for name, value in terms[0].items():
        assert torch.equal(terms[1][name], value), name
    for (name, ours), theirs in zip(
        checkpointed.named_parameters(), model.parameters()
    ):
        assert torch.equal(ours.grad, theirs.grad), name


@pytest.mark.parametrize('call', ['module', 'forward'])
def test_records_bound_modules_and_leaves_them_bound(call):
    module = Doubler()
    bind_forward(module)
    bind_forward(module)
    with Recorder({'out': (module, 'forward')}) as record:
        with pytest.raises(RuntimeError, match='Doubler.forward is shadowed already'):
            Recorder({'again': (module, 'forward')}).__enter__()
        (module if call == 'module' else module.forward)(torch.tensor(3.0))
    assert record.last('out').item() == 6
    assert module.__dict__['forward'] == MethodType(Doubler.forward, module)
    module(torch.tensor(1.0))
    assert len(record.outputs['out']) == 1


@pytest.mark.parametrize('copy', [deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_bound_modules_have_their_own_forward(copy):
    module = Doubler()
    bind_forward(module)
    twin = copy(module)
    assert twin.forward.__self__ is twin
    assert twin(torch.tensor(3.0)).item() == 6


def test_modules_without_a_forward_are_not_bound():
    modules = nn.ModuleList()
    bind_forward(modules)
    assert 'forward' not in modules.__dict__


@needs_tracing
@pytest.mark.parametrize('call', ['module', 'forward'])
def test_bound_modules_are_recorded_while_compiled(call):
    module = Doubler()
    bind_forward(module)
    before = set(module.__dict__)

    @torch.compile(backend='eager', fullgraph=True)
    def recorded(x):
        with Recorder({'out': (module, 'forward')}) as record:
            module(x) if call == 'module' else module.forward(x)
        return record.last('out')

    for value in (1.0, 2.0):
        assert recorded(torch.tensor(value)).item() == 2 * value
        assert module(torch.tensor(value)).item() == 2 * value
    assert set(module.__dict__) == before


def test_a_target_that_fails_leaves_no_other_shadowed():
    module = nn.Linear(2, 2)
    targets = {'out': (module, 'forward'), 'missing': (module, 'no_such_method')}
    with pytest.raises(AttributeError):
        Recorder(targets).__enter__()
    assert 'forward' not in vars(module)
    with Recorder({'out': (module, 'forward')}) as record:  # as if nothing had been
        module(torch.ones(1, 2))
    assert record.last('out').shape == (1, 2)
