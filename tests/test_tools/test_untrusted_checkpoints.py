"""No entry point runs what the pickle of a checkpoint asks for."""

import os
import pickle
import sys

import pytest
import torch
from small_runs import CONFIG, PLAIN, REPO, config, forget_the_last_run

from frskd_mm.engine import evaluate, export_student, train, wrap
from frskd_mm.lab.benchmark.inference import _load as load_for_benchmark
from frskd_mm.lab.compare.run import CONFIG as RUN_CONFIG
from frskd_mm.lab.compare.run import WORK_DIR, execute
from frskd_mm.utils.checkpoint_loading import UntrustedCheckpointError
from frskd_mm.utils.command import CommandParser
from frskd_mm.utils.model import build_model


class Malicious:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def _test(path, folder):
    evaluate(config(folder), str(path))


def _export(path, folder):
    export_student(config(folder), str(path), str(folder / 'student.pth'))


def _resume(path, folder):
    train(config(folder, resume=str(path)))


def _resume_newest(path, folder):
    train(config(path.parent, resume='auto'))


def _load_from(path, folder):
    train(config(folder, dict(load_from=str(path))))


def _init_cfg(path, folder):
    init = dict(type='Pretrained', checkpoint=str(path))
    train(config(folder, {'model.backbone.init_cfg': init}, PLAIN))


def _teacher(path, folder):
    given = dict(checkpoint=str(path), teacher=str(REPO / PLAIN))
    train(wrap(config(folder, path=PLAIN), 'kd', given))


def _compare(path, folder):
    run = folder / 'seed0'
    (run / WORK_DIR).mkdir(parents=True)
    config(folder).dump(str(run / RUN_CONFIG))
    path.rename(run / WORK_DIR / 'epoch_1.pth')
    execute(str(run), os.getppid())


def _benchmark(path, folder):
    load_for_benchmark(config(folder), str(path))


ENTRIES = [
    _test,
    _export,
    _resume,
    _resume_newest,
    _load_from,
    _init_cfg,
    _teacher,
    _compare,
    _benchmark,
]


@pytest.mark.parametrize('form', ['zip', 'legacy', 'raw'])
@pytest.mark.parametrize('enter', ENTRIES, ids=lambda entry: entry.__name__[1:])
def test_code_in_a_checkpoint_is_refused(tmp_path, enter, form):
    folder, marker = tmp_path / 'run', tmp_path / 'ran'
    folder.mkdir()
    path = folder / 'epoch_1.pth'
    checkpoint = dict(state_dict={}, meta=dict(epoch=1, iter=5), x=Malicious(marker))
    if form == 'raw':
        path.write_bytes(pickle.dumps(checkpoint))
    else:
        torch.save(checkpoint, path, _use_new_zipfile_serialization=form == 'zip')
    forget_the_last_run()
    with pytest.raises(UntrustedCheckpointError, match=r'posix\.system'):
        enter(path, folder)
    assert not marker.exists()


def test_code_in_what_an_export_would_overwrite_is_refused(tmp_path):
    path, marker = tmp_path / 'student.pth', tmp_path / 'ran'
    torch.save(dict(state_dict={}, meta={}, x=Malicious(marker)), path)
    whole = tmp_path / 'whole.pth'
    cfg = config(tmp_path / 'run')
    torch.save(dict(state_dict=build_model(cfg).state_dict()), whole)
    with pytest.raises(ValueError, match='overwritten'):
        export_student(cfg, str(whole), str(path))
    assert not marker.exists()


def test_whoever_insists_gets_it(tmp_path, monkeypatch):
    path, marker = tmp_path / 'epoch_1.pth', tmp_path / 'ran'
    torch.save(dict(state_dict={}, x=Malicious(marker)), path)
    parser = CommandParser()
    parser.add_cfg_options()
    monkeypatch.setattr(sys, 'argv', ['test.py', '--trust-checkpoint'])
    options = parser.parse_args().cfg_options
    assert options == dict(trust_checkpoint=True)
    with pytest.raises(ValueError, match='does not fit'):
        evaluate(config(tmp_path / 'run', options, CONFIG), str(path))
    assert marker.exists()


@pytest.mark.parametrize(
    'argv',
    [
        ['--cfg-options', 'a=1', '--trust-checkpoint'],
        ['--trust-checkpoint', '--cfg-options', 'a=1'],
    ],
)
def test_the_option_joins_the_others(argv):
    parser = CommandParser()
    parser.add_cfg_options()
    assert parser.parse_args(argv).cfg_options == dict(trust_checkpoint=True, a=1)
