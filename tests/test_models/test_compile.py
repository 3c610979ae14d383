"""``torch.compile`` of the training step: no graph break, and the same numbers."""

import logging
import pickle
from copy import deepcopy

import pytest
import torch
from comparators import distilled
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch._dynamo.utils import counters
from toys import needs_tracing, toy_batch, toy_frskd_cfg, wide_resnet_cfg

from frskd_mm.engine import load_config

pytestmark = needs_tracing

#: Every method's defaults are compiled by ``DistillerContract``.
VARIANTS = dict(
    without_features=toy_frskd_cfg(beta=0),
    attached=toy_frskd_cfg(detach_inputs=False),
)
METHODS = dict(frskd=toy_frskd_cfg(), sla=dict(type='frskd_mm.SLA'))


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    # pytest would make PyTorch write, and keep, a record of every traced tensor.
    logging.getLogger('torch.__trace').setLevel(logging.WARNING)
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def build(distiller):
    return distilled(distiller, wide_resnet_cfg())


def compile_forward(model):
    model.forward = torch.compile(model.forward, backend='eager', fullgraph=True)


def step(model, batch):
    """Compute one step's terms, and leave the gradients."""
    model.zero_grad()
    losses = model(**batch, mode='loss')
    model.parse_losses(losses)[0].backward()
    return losses


def assert_equal_steps(model, reference, batch):
    losses, expected = step(model, deepcopy(batch)), step(reference, batch)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            losses[name], value, msg=lambda m, n=name: f'{n} {m}'
        )
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), reference.buffers()):
        torch.testing.assert_close(ours, theirs)
    return losses


@pytest.mark.parametrize('variant', VARIANTS)
def test_whole_step_is_one_graph_with_the_same_numbers(variant):
    model = build(VARIANTS[variant])
    reference = deepcopy(model)
    compile_forward(model)
    for _ in range(4):
        assert_equal_steps(model, reference, toy_batch())
    assert counters['stats']['unique_graphs'] == 1
    assert not counters['graph_break']


def test_a_ramp_is_compiled_before_and_after_its_begin_only():
    schedule = dict(begin=2, ramp='sigmoid', by_epoch=False)
    model = build(toy_frskd_cfg(weight_schedule=schedule))
    reference = deepcopy(model)
    compile_forward(model)
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 10)
    terms = []
    for iteration in range(10):
        hub.update_info('iter', iteration)
        terms.append('loss_kd' in assert_equal_steps(model, reference, toy_batch()))
    assert terms == [False] * 2 + [True] * 8
    assert counters['stats']['unique_graphs'] == 2


def test_batches_are_checked_before_a_compiled_forward():
    model, batch = build(toy_frskd_cfg()), toy_batch()
    compile_forward(model)
    batch['inputs'][1, 0, 0, 0] = float('nan')
    with pytest.raises(ValueError, match=r'image\(s\) \[1\] of the batch contain NaN'):
        model(**batch, mode='loss')


def copy_by_pickle(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize('copy', [deepcopy, copy_by_pickle])
@pytest.mark.parametrize('method', ['frskd', 'sla'])
def test_copies_of_a_traced_model_record_their_own_modules(copy, method):
    model, batch = build(METHODS[method]), toy_batch()
    expected = step(deepcopy(model), deepcopy(batch))
    torch.compile(model.forward, backend='eager')(**deepcopy(batch), mode='loss')
    twin = copy(model)
    for module, original in zip(twin.modules(), model.modules()):
        for name, value in module.__dict__.items():
            assert getattr(value, '__self__', module) is not original, name
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float('nan'))
    for again in (twin, copy(twin)):
        losses = step(again, deepcopy(batch))
        for name, value in expected.items():
            torch.testing.assert_close(losses[name], value)


class Losses(Hook):
    """Keeps every step's total."""

    def __init__(self):
        self.totals = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.totals.append(outputs['loss'].item())


def train(repo, work_dir, **cfg_options):
    """Train on the digits as the config says, for two epochs of three steps."""
    cfg = load_config(str(repo / 'configs/digits/frskd_wrn10-1_digits.py'))
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.train_dataloader.dataset.update(num_per_class=6, size=16)
    cfg.train_dataloader.dataset.pipeline[0].crop_size = 16
    cfg.val_dataloader.dataset.size = 16
    cfg.optim_wrapper.optimizer.lr = 0.01
    cfg.update(work_dir=str(work_dir), log_level='ERROR', experiment_name=work_dir.name)
    cfg.merge_from_dict(cfg_options)
    losses = Losses()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(losses)
    runner.train()
    return losses.totals


def test_training_with_the_runners_compile(repo, tmp_path):
    expected = train(repo, tmp_path / 'eager')
    assert not counters['stats']
    totals = train(repo, tmp_path / 'compiled', compile=dict(backend='eager'))
    assert len(totals) == 6
    assert totals == pytest.approx(expected, rel=1e-3)
    assert counters['stats']['unique_graphs'] > 0
    # The runner compiles the step with its backward(), which is a break for every
    # model, and the optimiser, where PyTorch has one of its own.
    for reason in counters['graph_break']:
        assert 'Tensor.backward()' in reason or '_dynamo.graph_break()' in reason
