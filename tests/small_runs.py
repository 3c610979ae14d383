"""Trainings of seconds, in this process, through what tools/train.py calls."""

from pathlib import Path

import torch
from mmengine.registry import DefaultScope
from mmengine.utils import ManagerMixin

from frskd_mm.engine import configure_run, load_config, train

REPO = Path(__file__).resolve().parents[1]
CONFIG = 'configs/digits/frskd_wrn10-1_digits.py'
PLAIN = 'configs/digits/wrn10-1_digits.py'
#: Five steps an epoch, with dropout and augmentation, all checkpoints kept.
OPTIONS = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 10,
    'val_dataloader.dataset.num_per_class': 2,
    'train_dataloader.dataset.num_per_class': 4,
    'train_dataloader.batch_size': 8,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.checkpoint.max_keep_ckpts': -1,
    'log_level': 'ERROR',
}
DROPOUT = {'model.student.backbone.drop_rate': 0.3}


def forget_the_last_run():
    """Let the next run be as in a process of its own.

    A run that begins in the same second as the last one has its name, and would get
    its visualizer, which writes into the other folder.
    """
    for manager in (DefaultScope, *_subclasses(ManagerMixin)):
        if hasattr(manager, '_instance_dict'):
            manager._instance_dict.clear()


def _subclasses(base):
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)


def config(work_dir, options=None, path=CONFIG, **arguments):
    """Read and configure; a value of None in ``options`` deletes the key."""
    given = {**OPTIONS, **(options or {})}
    cfg = load_config(str(REPO / path), {k: v for k, v in given.items() if v != '-'})
    for key in [key for key, value in given.items() if value == '-']:
        *parents, last = key.split('.')
        node = cfg
        for parent in parents:
            node = node[parent]
        node.pop(last)
    return configure_run(cfg, work_dir=str(work_dir), **arguments)


def run(work_dir, options=None, path=CONFIG, **arguments):
    """Train; returns the runner."""
    forget_the_last_run()
    return train(config(work_dir, options, path, **arguments))


def state(work_dir, name):
    """Return weights and optimiser state of a checkpoint."""
    checkpoint = torch.load(Path(work_dir) / name, weights_only=False)
    return checkpoint['state_dict'], checkpoint['optimizer']['state']


def assert_equal_states(found, expected):
    """Require two states to agree bit for bit."""
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
