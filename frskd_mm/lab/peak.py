"""Run a few steps and print their peak memory; a script for a new process.

It is run by its path and imports nothing of this package, so that the memory of a
foreign process has none of our libraries in it. Who starts it names what builds the
step.
"""

import gc
import json
import sys
from importlib import import_module
from typing import Any, Callable, Dict, Tuple

import torch

NUM_STEPS = 3
RESULT_MARK = 'PEAK_MEMORY '


def build_foreign_step(
    name: str, batch_size: int, image_size: Tuple[int, int], num_classes: int
) -> Callable[[], Any]:
    """Return a training step of other code.

    Args:
        name: ``module:function``. The module is looked for in the working
            directory and on the Python path. The function is called with the
            other arguments and returns a function without arguments that does
            one whole training step.
        batch_size: Images a step.
        image_size: Height and width.
        num_classes: Number of classes.

    Raises:
        ValueError: If there is no such function, or it returns something else.
    """
    step = find_function(name)(batch_size, image_size, num_classes)
    if not callable(step):
        raise ValueError(
            f'--against {name} must return a function that does one training step, '
            f'but returned a {type(step).__name__}.'
        )
    return step


def find_function(name: str) -> Callable:
    """Return the function ``module:function``.

    Raises:
        ValueError: If there is none; says why.
    """
    module_name, separator, function_name = name.partition(':')
    if not separator or not module_name or not function_name:
        raise ValueError(f'--against takes module:function, not {name!r}.')
    if '' not in sys.path:
        sys.path.insert(0, '')  # the working directory, as with python -m
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f'--against {name}: {error}. The module is looked for in the working '
            'directory and on PYTHONPATH.'
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(
            f'--against {name}: {module.__file__} has no function {function_name!r}.'
        )
    return function


def resident_peak() -> int:
    """Return the process's peak resident memory in bytes."""
    # Not getrusage: on Linux its peak begins with that of the process that
    # started this one, which may hold all arms.
    try:
        with open('/proc/self/status', encoding='ascii') as file:
            sizes = dict(line.split(':', 1) for line in file)
        return int(sizes['VmHWM'].split()[0]) * 1024  # it is given in kB
    except OSError:
        import resource  # elsewhere than on Linux and Windows

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


def measure_peak(step: Callable[[], Any]) -> Dict[str, float]:
    """Run a step a few times.

    Returns:
        dict[str, float]: Megabytes: 'peak', and 'step' above what was in use
        before.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        _restart_peak()
        before = resident_peak()
    for _ in range(NUM_STEPS):
        step()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident_peak()
    return dict(peak=peak / 2**20, step=(peak - before) / 2**20)


def main() -> None:
    """Do what the standard input asks for, as JSON."""
    sys.path.pop(0)  # this script's folder, whose names are not for others
    task = json.load(sys.stdin)
    torch.set_num_threads(task['threads'])
    if task['foreign']:
        step = build_foreign_step(
            task['foreign'],
            task['batch_size'],
            tuple(task['image_size']),
            task['num_classes'],
        )
    else:
        module, function = task['builder'].split(':')
        step = getattr(import_module(module), function)(task)
    print(RESULT_MARK + json.dumps(measure_peak(step)))


if __name__ == '__main__':
    main()
