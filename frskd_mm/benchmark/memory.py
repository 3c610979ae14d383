"""Peak memory of a training step: ``python -m frskd_mm.benchmark.memory``.

Arms that share a process share its memory, so each is run in a process of its
own for a few steps. It reads its task from the standard input, as JSON.
"""

import gc
import json
import os
import os.path as osp
import re
import resource
import subprocess
import sys
import tempfile
from typing import Any, Dict

import torch

from .plan import Arm
from .steps import TrainingStep, Workload, silence

NUM_STEPS = 3
RESULT_MARK = 'PEAK_MEMORY '


def measure_memory(arm: Arm, workload: Workload) -> Dict[str, float]:
    """Run an arm in a new process and return its memory in MB.

    Args:
        arm: What to run.
        workload: Batch and image size.

    Returns:
        dict[str, float]: 'peak' of the process (on a GPU: of its tensors), and
        'step', by how much that is above what was in use before the first step:
        activations, gradients, the optimiser's state and what the libraries
        allocate at their first use.

    Raises:
        RuntimeError: If the process fails; with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        task: Dict[str, Any] = dict(
            name=arm.name,
            num_classes=arm.num_classes,
            foreign=arm.foreign,
            workload=workload,
            threads=torch.get_num_threads(),
        )
        if arm.cfg is not None:
            task['config'] = osp.join(folder, 'config.py')
            arm.cfg.dump(task['config'])
        paths = [path or os.getcwd() for path in sys.path]
        done = subprocess.run(
            [sys.executable, '-m', 'frskd_mm.benchmark.memory'],
            input=json.dumps(task),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(paths)},
        )
    lines = done.stdout.strip().splitlines()
    results = [line for line in lines if line.startswith(RESULT_MARK)]
    if done.returncode or not results:
        end = '\n'.join(lines[-15:])
        raise RuntimeError(f'The memory of {arm.name} could not be measured:\n{end}')
    return json.loads(results[-1][len(RESULT_MARK) :])


def _peak() -> int:
    """Return the process's peak resident memory in bytes."""
    # Not getrusage: on Linux its peak begins with that of the process that
    # started this one, which holds all arms.
    try:
        with open('/proc/self/status', encoding='ascii') as file:
            return int(re.search(r'VmHWM:\s*(\d+) kB', file.read()).group(1)) * 1024
    except OSError:
        unit = 1 if sys.platform == 'darwin' else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _restart_peak() -> None:
    """Let the peak begin with what is in use now."""
    gc.collect()
    try:
        with open('/proc/self/clear_refs', 'w', encoding='ascii') as file:
            file.write('5')
    except OSError:  # elsewhere the peak is that of the whole run
        pass


def main() -> None:
    """Do what the parent asks for."""
    import frskd_mm  # noqa: F401  (registers what configs name)

    silence()
    task = json.load(sys.stdin)
    torch.set_num_threads(task['threads'])
    workload = Workload(*task['workload'])
    arm = Arm.from_task(task)
    step = arm.build(workload)
    if isinstance(step, TrainingStep):
        step.compile()
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        _restart_peak()
        before = _peak()
    for _ in range(NUM_STEPS):
        step()
    peak = torch.cuda.max_memory_allocated() if on_gpu else _peak()
    result = dict(peak=peak / 2**20, step=(peak - before) / 2**20)
    print(RESULT_MARK + json.dumps(result))


if __name__ == '__main__':
    main()
