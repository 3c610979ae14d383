"""One run of a grid, in a process of its own."""

import json
import os
import os.path as osp
import time
from typing import Any, Dict, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from frskd_mm.engine.config import configure_run
from frskd_mm.engine.export import deployed_config, write_student
from frskd_mm.engine.runs import build_runner
from frskd_mm.hooks.self_teacher_metric_hook import SelfTeacherMetricHook, own_files
from frskd_mm.lab.outputs import write_file
from frskd_mm.lab.peak import resident_peak
from frskd_mm.lab.scalars import read_scalars
from frskd_mm.models.distilled import Distilled
from frskd_mm.utils.checkpoint_files import find_checkpoint, write_whole
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.environment import describe_environment, require_cuda_ops
from frskd_mm.utils.metrics import numbers_of
from frskd_mm.utils.model import build_model, count_parameters, interval_of, unwrap

from .lock import hold
from .quality import with_calibration, with_outputs_below

CONFIG, RESULT, LOG, PROGRESS = 'config.py', 'result.json', 'log.txt', 'progress.txt'
PREDICTIONS, SCALARS, WORK_DIR = 'predictions.npz', 'scalars.json', 'work_dir'
TEACHER_PREDICTIONS = f'self_teacher_{PREDICTIONS}'
#: Folder of the files that the config lets its evaluators write.
EVALUATED = 'evaluated'
PEAK_MEMORY = 'peak_memory.txt'
GONE = 'Stopped: the grid that started this run is gone.'


class ProgressHook(Hook):
    """Write how much of the training is done, and end with the grid.

    Args:
        folder: The run's, for the fraction and the peak of memory.
        parent: Process that runs the grid. When it is gone, killed without a
            chance to stop its runs, the run stops, so that a new grid can go
            on with it.
    """

    def __init__(self, folder: str, parent: int) -> None:
        self.folder, self.parent = folder, parent
        self.written = 0.0

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Stop if the grid is gone."""
        if os.getppid() != self.parent:
            raise SystemExit(GONE)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Write both, once a second."""
        if time.monotonic() - self.written > 1.0:
            self.written = time.monotonic()
            done = (runner.iter + 1) / runner.max_iters
            write_file(osp.join(self.folder, PROGRESS), str(done))
            note_peak_memory(self.folder)


def note_peak_memory(folder: str) -> int:
    """Keep the peak of all processes of a run, since it may be interrupted.

    Args:
        folder: The run's, with ``peak_memory.txt``.

    Returns:
        int: Bytes: of tensors on a GPU, else of the whole process.
    """
    on_gpu = torch.cuda.is_available()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_peak()
    path = osp.join(folder, PEAK_MEMORY)
    if osp.isfile(path):
        with open(path, encoding='utf-8') as file:
            peak = max(peak, int(file.read()))
    write_file(path, str(peak))
    return peak


def execute(folder: str, parent: int) -> None:
    """Train, or go on training, then test the last weights and export them.

    Args:
        folder: Has the run's ``config.py``; gets ``result.json`` at the end.
        parent: Process that runs the grid.
    """
    cfg = Config.fromfile(osp.join(folder, CONFIG))
    require_cuda_ops(cfg.get('default_scope'))
    with checkpoints_as_data(cfg):
        _execute(cfg, folder, parent)


def _execute(cfg: Config, folder: str, parent: int) -> None:
    work_dir = osp.join(folder, WORK_DIR)
    found = find_checkpoint(work_dir)
    for line in found.damaged:
        print(f'Damaged checkpoint {line}. The one before is used, if any.')
    # A first start must keep the config's own load_from.
    configure_run(cfg, work_dir=work_dir, resume=found.path)
    _keep_checkpoints_apart(cfg)
    _log_to_files(cfg)
    for name in ('val_evaluator', 'test_evaluator'):
        cfg[name] = with_outputs_below(cfg.get(name), osp.join(folder, EVALUATED))
    predictions = osp.join(folder, PREDICTIONS)
    cfg.test_evaluator = with_calibration(cfg.test_evaluator, predictions)
    runner = build_runner(cfg)
    runner.register_hook(ProgressHook(folder, parent))
    model = unwrap(runner.model)
    has_teacher = isinstance(model, Distilled) and model.self_teacher_predicts
    if has_teacher and not any(
        isinstance(hook, SelfTeacherMetricHook) for hook in runner.hooks
    ):
        runner.register_hook(SelfTeacherMetricHook())
    runner.train()
    weights = final_weights(runner)
    model.load_state_dict(weights)
    metrics = runner.test()
    teacher = test_self_teacher(runner, folder) if has_teacher else None

    deployed = model
    if isinstance(model, Distilled):
        plain = deployed_config(cfg)
        write_student(
            plain,
            weights,
            describe_training(runner),
            osp.join(folder, 'student.pth'),
            origin=folder,
        )
        deployed = build_model(plain)
    merge_scalars(folder)
    # The history is in the checkpoints, so it spans interruptions.
    step_seconds, _ = runner.message_hub.get_scalar('train/time').data
    result = dict(
        metrics=numbers_of(metrics),
        step_seconds=typical_step(step_seconds, interval_of(model)),
        steps=runner.iter,
        peak_memory_mb=note_peak_memory(folder) / 2**20,
        parameters_training=count_parameters(model),
        parameters_inference=count_parameters(deployed),
        environment=describe_environment(),
    )
    if teacher is not None:
        result['self_teacher'] = teacher
    write_whole(osp.join(folder, RESULT), json.dumps(result, indent=2).encode())


def _log_to_files(cfg: Config) -> None:
    """Let the report read what is logged, whatever else the config logs to."""
    if cfg.get('visualizer') is None:  # MMEngine's own logs to files
        return
    backends = cfg.visualizer.get('vis_backends') or []
    if isinstance(backends, dict):
        backends = [backends]
    if not any('LocalVisBackend' in str(backend['type']) for backend in backends):
        cfg.visualizer.vis_backends = [*backends, dict(type='LocalVisBackend')]


def _keep_checkpoints_apart(cfg: Config) -> None:
    """Leave checkpoints in the work directory: elsewhere all runs would share one."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if hook.get('out_dir'):
        print(
            f'The checkpoints are in {cfg.work_dir}, not in '
            f'default_hooks.checkpoint.out_dir={hook["out_dir"]}, which the runs of a '
            'comparison would share.'
        )
        hook['out_dir'] = None


def typical_step(seconds: Sequence[float], interval: int = 1) -> float:
    """Return the median time of a step; of steps that take turns, of whole turns.

    Args:
        seconds: Of each step, in their order.
        interval: How many steps make a turn: a self-teacher that runs on every
            k-th step makes that one dearer than the others.
    """
    whole = len(seconds) // interval * interval
    if not whole:
        return float(np.mean(seconds))
    turns = np.asarray(seconds[:whole]).reshape(-1, interval)
    return float(np.median(turns.mean(axis=1)))


def test_self_teacher(runner: Runner, folder: str) -> Dict[str, float]:
    """Return the self-teacher's own metrics on the test data.

    For classifiers also ``agreement``, the fraction of the images of which it says
    what its student says.

    Args:
        runner: Which has tested the student.
        folder: The run's, with the student's predictions.
    """
    with own_files(runner.test_loop.evaluator.metrics):
        with unwrap(runner.model).as_self_teacher():
            numbers = numbers_of(runner.test())
    own = osp.join(folder, TEACHER_PREDICTIONS)
    if osp.isfile(own):
        student, teacher = (
            np.load(path)['predicted'] for path in (osp.join(folder, PREDICTIONS), own)
        )
        numbers['agreement'] = float((student == teacher).mean())
    return numbers


def final_weights(runner: Runner) -> Dict[str, Tensor]:
    """Return the weights that MMEngine would save now, by name.

    There need not be such a checkpoint: early stopping ends a training between two.
    They are not the model's where a hook keeps an average, which it puts into
    checkpoints, and which a test that follows a training would do without.
    """
    checkpoint = dict(state_dict=dict(unwrap(runner.model).state_dict()))
    runner.call_hook('before_save_checkpoint', checkpoint=checkpoint)
    weights = checkpoint['state_dict']
    return {name: value.to('cpu', copy=True) for name, value in weights.items()}


def describe_training(runner: Runner) -> Dict[str, Any]:
    """Return what checkpoints say of a training."""
    return dict(
        epoch=runner.epoch,
        iter=runner.iter,
        experiment_name=runner.experiment_name,
        dataset_meta=getattr(runner.train_dataloader.dataset, 'metainfo', {}),
    )


def merge_scalars(folder: str) -> None:
    """Join the logs of an interrupted run into one, ``scalars.json``."""
    lines = map(json.dumps, read_scalars(osp.join(folder, WORK_DIR)))
    write_whole(osp.join(folder, SCALARS), ('\n'.join(lines) + '\n').encode())


def main(folder: str, parent: int) -> None:
    """Execute a run whose folder no other process is at."""
    if os.getppid() != parent:
        raise SystemExit(GONE)
    with hold(folder):
        execute(folder, parent)
