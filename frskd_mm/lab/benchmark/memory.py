"""Peak memory of a training step, in a process of its own."""

import json
import os
import os.path as osp
import subprocess
import sys
import tempfile
from typing import Any, Dict

import torch
from mmengine.config import Config

import frskd_mm  # noqa: F401  (registers what configs name)
from frskd_mm.lab import peak

from .plan import Arm
from .steps import TrainingStep, Workload, silence

NUM_LOG_LINES = 15


def measure_memory(arm: Arm, workload: Workload) -> Dict[str, float]:
    """Run an arm for a few steps in a new process.

    Arms that share a process share its memory, and freed memory stays with it.

    Args:
        arm: What to run.
        workload: Batch and image size.

    Returns:
        dict[str, float]: In megabytes, 'peak' of the process (on a GPU: of its
        tensors), and 'step', by how much that is above what was in use before
        the first step: activations, gradients, the optimiser's state and what
        the libraries allocate at their first use.

    Raises:
        RuntimeError: If the process fails; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        task: Dict[str, Any] = dict(
            **workload._asdict(),
            num_classes=arm.num_classes,
            foreign=arm.foreign,
            threads=torch.get_num_threads(),
            builder=f'{__name__}:{build_own_step.__name__}',
        )
        if arm.cfg is not None:
            task['config'] = osp.join(folder, 'config.py')
            arm.cfg.dump(task['config'])
        paths = [path or os.getcwd() for path in sys.path]
        done = subprocess.run(
            [sys.executable, peak.__file__],
            input=json.dumps(task),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        )
    lines = done.stdout.strip().splitlines()
    results = [line for line in lines if line.startswith(peak.RESULT_MARK)]
    if done.returncode or not results:
        end = '\n'.join(lines[-NUM_LOG_LINES:])
        raise RuntimeError(f'The memory of {arm.name} could not be measured:\n{end}')
    return json.loads(results[-1][len(peak.RESULT_MARK) :])


def build_own_step(task: Dict[str, Any]) -> TrainingStep:
    """Build in the new process what :func:`measure_memory` was given."""
    silence()
    workload = Workload(task['batch_size'], tuple(task['image_size']))
    cfg = Config.fromfile(task['config'])
    step = TrainingStep(cfg, workload, task['num_classes'])
    step.compile()
    return step
