"""Loading a checkpoint does not run what its pickle asks for."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.optim import OneCycleLR, OptimWrapper
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from frskd_mm.utils import checkpoint_loading
from frskd_mm.utils.checkpoint_loading import (
    UntrustedCheckpointError,
    checkpoints_as_data,
)


class Malicious:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def write_malicious(path, form, marker, **content):
    """Write a checkpoint that makes ``marker`` when it is loaded."""
    checkpoint = {'state_dict': {}, 'meta': {}, **content, 'x': Malicious(marker)}
    if form == 'raw':
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        zipped = form == 'zip'
        torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


@pytest.fixture(params=[True, False], ids=['weights_only', 'before PyTorch 2.6'])
def _both_ways(request, monkeypatch):
    if request.param and not checkpoint_loading.HAS_SAFE_GLOBALS:
        pytest.skip('needs PyTorch 2.6')
    monkeypatch.setattr(checkpoint_loading, 'HAS_SAFE_GLOBALS', request.param)


@pytest.mark.usefixtures('_both_ways')
@pytest.mark.parametrize('form', ['zip', 'legacy', 'raw'])
def test_code_is_refused_by_its_name(tmp_path, form):
    path, marker = tmp_path / 'evil.pth', tmp_path / 'ran'
    write_malicious(path, form, marker)
    with checkpoints_as_data(), pytest.raises(UntrustedCheckpointError) as caught:
        load(path)
    assert 'evil.pth asks for posix.system' in str(caught.value)
    assert '--trust-checkpoint' in str(caught.value)
    assert not marker.exists()


def test_the_files_do_run_code_where_they_are_trusted(tmp_path):
    path, marker = tmp_path / 'evil.pth', tmp_path / 'ran'
    write_malicious(path, 'zip', marker)
    with checkpoints_as_data(dict(trust_checkpoint=True)):
        load(path)
    assert marker.exists()


class Model(torch.nn.Linear):
    """A whole module in a checkpoint."""


@pytest.mark.usefixtures('_both_ways')
@pytest.mark.parametrize(
    ('value', 'name'),
    [
        (Model(2, 2), 'test_checkpoint_loading.Model'),
        (Path('x'), 'pathlib.'),
    ],
)
def test_other_types_are_refused_by_their_names(tmp_path, value, name):
    path = tmp_path / 'own.pth'
    torch.save(dict(state_dict={}, own=value), path)
    with checkpoints_as_data(), pytest.raises(UntrustedCheckpointError, match=name):
        load(path)


@pytest.mark.usefixtures('_both_ways')
@pytest.mark.parametrize('zipped', [True, False])
def test_what_mmengine_saves_is_loaded(tmp_path, zipped):
    parameters = torch.nn.Linear(2, 2).parameters()
    wrapper = OptimWrapper(torch.optim.AdamW(parameters))
    hub = MessageHub.get_instance('loading')
    hub.update_scalar('train/loss', 1.5)
    hub.update_info('best_score', np.float64(3.0))
    old_buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    old_buffer.__dict__['_statistics_methods'] = {'min': HistoryBuffer.min}
    checkpoint = dict(
        state_dict=dict(weight=torch.ones(2, dtype=torch.bfloat16)),
        meta=dict(palette=np.eye(3), classes=('a', 'b'), names=np.array(['a'])),
        message_hub=hub.state_dict(),
        optimizer=wrapper.state_dict(),
        param_schedulers=[OneCycleLR(wrapper, eta_max=1, total_steps=9).state_dict()],
        buffer=old_buffer,
        bytes=b'\xff',
    )
    path = tmp_path / 'good.pth'
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    with checkpoints_as_data():
        loaded = load(path)
    assert loaded['message_hub']['log_scalars']['train/loss'].current() == 1.5
    assert loaded['message_hub']['runtime_info']['best_score'] == 3.0
    assert loaded['buffer'].min() == 1.0
    np.testing.assert_array_equal(loaded['meta']['palette'], np.eye(3))
    assert loaded['param_schedulers'][0]['anneal_func'](0.0, 1.0, 1.0) == 1.0
    assert loaded['bytes'] == b'\xff'


def test_the_config_in_a_checkpoint_is_not_executed(tmp_path):
    path = tmp_path / 'old.pth'
    meta = dict(config='import os', epoch=1)
    save_checkpoint(dict(state_dict={}, meta=meta), str(path))
    with checkpoints_as_data():
        assert load(path)['meta'] == dict(epoch=1)


def test_outside_nothing_is_changed():
    before = torch.load
    with checkpoints_as_data():
        with checkpoints_as_data(dict(trust_checkpoint=True)):
            assert torch.load.original is before
        assert torch.load is not before
    assert torch.load is before


def test_the_file_may_be_named(tmp_path):
    """As code of users may do within a run."""
    torch.save(dict(weight=torch.ones(1)), tmp_path / 'x.pth')
    with checkpoints_as_data():
        loaded = torch.load(f=str(tmp_path / 'x.pth'), map_location='cpu')
    assert loaded['weight'] == 1
