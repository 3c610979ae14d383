"""Two processes, of which one is frozen or spoilt."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import distributed
from trainings import OPTIONS

from frskd_mm.engine.heartbeat import EXIT_CODE, _Heartbeat, watch_processes

REPO = Path(__file__).resolve().parents[2]
CONFIG = 'configs/digits/frskd_wrn10-1_digits.py'


def start(work_dir, script, **options):
    """Start two processes as torchrun does, without one that ends them."""
    given = {
        **OPTIONS,
        'train_cfg.max_epochs': 3,
        'train_dataloader.batch_size': 8,
        **options,
    }
    command = [*script, CONFIG, '--launcher=pytorch', '--no-validate', '--work-dir']
    command += [str(work_dir), '--cfg-options', *(f'{k}={v}' for k, v in given.items())]
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': f'{REPO}:{REPO}/tests'}
    env.update(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()))
    work_dir.mkdir()
    processes = []
    for rank in '01':
        with open(work_dir / f'out{rank}.txt', 'w') as out:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *command],
                    cwd=REPO,
                    env={**env, 'RANK': rank, 'LOCAL_RANK': rank},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            )
    return processes


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize('frozen', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_frozen_process_ends_the_others(tmp_path, frozen):
    processes = start(
        tmp_path / 'run',
        ['tools/train.py'],
        **{'train_cfg.max_epochs': 10000, 'env_cfg.heartbeat_timeout': 6},
    )
    output = tmp_path / 'run' / 'out0.txt'
    other = tmp_path / 'run' / f'out{1 - frozen}.txt'
    try:
        deadline = time.monotonic() + 300
        while not re.search(r'\[2\]\[ *1/', output.read_text()):
            assert time.monotonic() < deadline, output.read_text()[-2000:]
            assert all(process.poll() is None for process in processes)
            time.sleep(0.2)
        processes[frozen].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert processes[1 - frozen].wait(timeout=60) == EXIT_CODE, other.read_text()
        assert time.monotonic() - began < 30
        assert 'no sign of life for 6 s' in other.read_text()
        assert '--resume' in other.read_text()
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_no_thread_outlives_the_run(monkeypatch):
    # One inside the store when the interpreter ends would abort the process.
    port = free_port()
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', str(port))
    entered = threading.Event()
    connect = _Heartbeat._connect

    def connect_slowly(self):
        entered.set()
        time.sleep(0.5)
        return connect(self)

    monkeypatch.setattr(_Heartbeat, '_connect', connect_slowly)
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(heartbeat_timeout=3)))
    distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=0, world_size=1
    )
    try:
        with watch_processes(cfg):
            assert entered.wait(60)
        assert not [t for t in threading.enumerate() if 'heartbeat' in t.name]
    finally:
        distributed.destroy_process_group()


SPOILT = """
import math, os, runpy, sys
from mmengine.hooks import Hook
from mmengine.runner import Runner

class Spoil(Hook):
    priority = 'VERY_HIGH'
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter != 6 or os.environ['RANK'] != '1':
            return
        model = runner.model.module
        if os.environ['SPOIL'] == 'term':
            handle = model.head.fc.register_forward_hook(
                lambda m, i, o: (handle.remove(), o * math.nan)[1])
        else:
            handle = next(model.distiller.parameters()).register_hook(
                lambda g: (handle.remove(), g * math.nan)[1])

original = Runner.train
def train(self):
    self.register_hook(Spoil())
    original(self)
Runner.train = train
sys.argv[0] = 'tools/train.py'
runpy.run_path('tools/train.py', run_name='__main__')
"""


@pytest.mark.parametrize(
    ('what', 'rule', 'first', 'second'),
    [
        ('term', 'stop', 'a term of another process', 'student.loss'),
        pytest.param(
            *('term', 'skip', 'a term of another process', 'student.loss'),
            marks=pytest.mark.slow,
        ),
        # DDP has spread it already.
        pytest.param(
            *('gradient', 'skip'),
            *['the gradient of distiller.'] * 2,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_all_processes_decide_alike(tmp_path, monkeypatch, what, rule, first, second):
    monkeypatch.setenv('SPOIL', what)
    processes = start(tmp_path / 'run', ['-c', SPOILT], non_finite=rule)
    try:
        codes = [process.wait(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    texts = [(tmp_path / 'run' / f'out{rank}.txt').read_text() for rank in '01']
    assert codes == [2 if rule == 'stop' else 0] * 2, texts[0][-2000:]
    assert f'Iteration 7: {first}' in texts[0]
    if rule == 'stop':
        assert f'Iteration 7: {second}' in texts[1]
    else:
        assert 'is skipped' in texts[0]
        assert (tmp_path / 'run' / 'epoch_3.pth').exists()
