"""Small trainings on one process and, through torchrun, on two.

DefaultSampler deals a shuffled epoch out to the processes in turn, so that the i-th
batches of both are together the i-th batch, twice as large, of one process. All norms
are GN here: batch statistics are each process's own without SyncBN, which PyTorch has
for accelerators only. All is trained in float64, where no rounding decides anything.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_float64 import default_dtype

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
    # A resumed run begins with the validation of the epoch that it goes on after.
    'train_cfg.val_interval': 1,
    'val_dataloader.dataset.num_per_class': 2,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 1,
    'log_processor.window_size': 1,
}
TERMS = ('student.loss', 'self_teacher.loss', 'loss_kd', 'loss_at')


def train_on_one(work_dir, epochs, resume=None, given=None):
    """Train in this process, with the joined batch; ``given`` are config values."""
    cfg = load_config(str(REPO / CONFIG), _options(epochs, 2 * BATCH, given))
    cfg.experiment_name = f'{work_dir.name}-{epochs}'
    configure_run(cfg, work_dir=str(work_dir), resume=resume)
    with default_dtype(torch.float64):
        build_runner(cfg).train()


def train_on_two(work_dir, epochs, *arguments, given=None):
    """Train as a user does, on two processes with half the batch each."""
    options = _options(epochs, BATCH, given)
    command = ['torch.distributed.run', '--standalone', '--nproc_per_node=2']
    command += [str(Path(__file__).with_name('in_float64.py'))]
    command += ['tools/train.py', CONFIG, '--launcher=pytorch']
    command += ['--work-dir', str(work_dir), *arguments, '--cfg-options']
    done = subprocess.run(
        [sys.executable, '-m', *command, *(f'{k}={v}' for k, v in options.items())],
        cwd=REPO,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _options(epochs, batch_size, given):
    return {
        **OPTIONS,
        'train_cfg.max_epochs': epochs,
        'train_dataloader.batch_size': batch_size,
        **(given or {}),
    }


def weights_of(work_dir, epoch):
    path = work_dir / f'epoch_{epoch}.pth'
    return torch.load(path, weights_only=False)['state_dict']


def curve_of(work_dir):
    """Return the logged training steps of a work directory's runs, in order."""
    steps = {}
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            logged = json.loads(line)
            if 'lr' in logged:  # no validation's
                steps[logged['step']] = logged
    return [steps[step] for step in sorted(steps)]


def assert_equal_curves(found, expected):
    """Require equal rates and terms of all steps, and none of the terms 0."""
    assert len(found) == len(expected)
    for step, (ours, theirs) in enumerate(zip(found, expected)):
        assert ours['lr'] == pytest.approx(theirs['lr'])
        for term in TERMS:
            assert theirs[term] > 0
            assert ours[term] == pytest.approx(theirs[term], rel=1e-6), (step, term)


def assert_equal_weights(found, expected):
    """Require equal weights."""
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(
            found[name],
            weight,
            rtol=1e-6,
            atol=1e-7 * float(weight.abs().max()),
            msg=lambda text, name=name: f'{name}: {text}',
        )
