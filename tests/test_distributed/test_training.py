"""tools/train.py under torchrun on two processes, and MMEngine's options at scale.

All norms are GN here: batch statistics are each process's own without SyncBN, which
PyTorch has for accelerators only. DefaultSampler deals a shuffled epoch out to the
processes in turn, so that the i-th batches of both are together the i-th batch, twice
as large, of one process. Sums run in another order then, hence the tolerances: the
differences of rounding grow over the steps.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from frskd_mm.engine import configure_run, load_config
from frskd_mm.engine.runs import build_runner

REPO = Path(__file__).resolve().parents[2]
CONFIG = 'configs/digits/frskd_wrn10-1_digits.py'
EPOCHS, STEPS, BATCH = 3, 5, 8
OPTIONS = {
    'model.student.backbone.norm_cfg.type': 'GN',
    'model.student.backbone.norm_cfg.num_groups': 4,
    'model.distiller.neck.norm_cfg.type': 'GN',
    'model.distiller.neck.norm_cfg.num_groups': 4,
    'train_dataloader.dataset.num_per_class': 8,
    # Crops of the whole image: nothing that a process draws for itself.
    'train_dataloader.dataset.pipeline.0.padding': 0,
    'optim_wrapper.optimizer.lr': 0.02,
    'param_scheduler.end': EPOCHS,  # also of runs that stop before
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    'log_processor.window_size': 1,
}
TERMS = ('student.loss', 'self_teacher.loss', 'loss_kd', 'loss_at')


def options(epochs, batch_size):
    return {
        **OPTIONS,
        'train_cfg.max_epochs': epochs,
        'train_dataloader.batch_size': batch_size,
    }


def train_on_one(work_dir, epochs, resume=None):
    """Train in this process, with the joined batch."""
    cfg = load_config(str(REPO / CONFIG), options(epochs, 2 * BATCH))
    cfg.experiment_name = f'{work_dir.name}-{epochs}'
    configure_run(cfg, work_dir=str(work_dir), resume=resume, validate=False)
    build_runner(cfg).train()


def train_on_two(work_dir, epochs, *arguments):
    """Train as a user does, on two processes with half the batch each."""
    given = [f'{key}={value}' for key, value in options(epochs, BATCH).items()]
    command = ['torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += ['tools/train.py', CONFIG, '--launcher=pytorch', '--no-validate']
    command += ['--work-dir', str(work_dir), *arguments, '--cfg-options', *given]
    done = subprocess.run(
        [sys.executable, '-m', *command],
        cwd=REPO,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def curves_of(work_dir):
    """Return the logged training steps of a work directory's runs, in order."""
    steps = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            logged = json.loads(line)
            steps[logged['step']] = logged
    return [steps[step] for step in sorted(steps)]


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """One process throughout; and two processes, then one, then two again."""
    one, changing = (tmp_path_factory.mktemp(name) for name in ('one', 'changing'))
    train_on_one(one, EPOCHS)
    train_on_two(changing, 1)
    train_on_one(changing, 2, resume='auto')
    train_on_two(changing, 3, '--resume')
    return one, changing


def test_curve_is_that_of_one_process_with_the_joined_batch(runs):
    one, changing = (curves_of(work_dir) for work_dir in runs)
    assert len(one) == len(changing) == EPOCHS * STEPS
    for step, (expected, found) in enumerate(zip(one, changing)):
        assert found['lr'] == pytest.approx(expected['lr'])
        for term in TERMS:
            assert expected[term] > 0
            assert found[term] == pytest.approx(expected[term], rel=3e-3), (step, term)
    for term in TERMS:  # the first step, before differences can grow
        assert changing[0][term] == pytest.approx(one[0][term], rel=1e-6, abs=2e-6)
    assert one[-1]['loss_at'] < 0.5 * one[0]['loss_at']  # it does train


def test_weights_are_those_of_one_process_with_the_joined_batch(runs):
    one, changing = (
        torch.load(work_dir / f'epoch_{EPOCHS}.pth', weights_only=False)['state_dict']
        for work_dir in runs
    )
    assert one.keys() == changing.keys()
    for name, weight in one.items():
        torch.testing.assert_close(
            changing[name],
            weight,
            rtol=1e-3,
            # Biases begin at 0 and are still small.
            atol=2e-3 * float(weight.abs().max()) + 1e-5,
            msg=lambda text, name=name: f'{name}: {text}',
        )


def test_no_search_for_unused_parameters(runs):
    cfg = Config.fromfile(runs[1] / Path(CONFIG).name)
    assert cfg.launcher == 'pytorch'
    assert cfg.model_wrapper_cfg.find_unused_parameters is False
