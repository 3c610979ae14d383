"""Where the time of a training step goes, by operator."""

from operator import attrgetter
from typing import Any, Callable, Dict, List

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEventAvg
from torch.profiler import ProfilerActivity, profile

NUM_OPERATORS = 12
REST = 'all others'


def profile_operators(step: Callable[[], Any], rounds: int) -> List[Dict[str, Any]]:
    """Run a warm step under PyTorch's profiler.

    Profiling costs time of its own, so the shares count, not the seconds.

    Args:
        step: What to run.
        rounds: How often.

    Returns:
        list[dict]: 'operator', 'share' of the time spent in operators themselves
        (on a GPU: in their kernels) and 'calls' a step; the largest first, the
        rest summed up at the end.
    """
    on_gpu = torch.cuda.is_available()
    activities = [ProfilerActivity.CPU]
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        for _ in range(rounds):
            step()
    rounds *= getattr(step, 'interval', 1)  # steps of a turn
    own_time = _kernel_time if on_gpu else attrgetter('self_cpu_time_total')
    # A kernel is listed, too, beside the operator that has its time.
    times = [
        (own_time(event), event)
        for event in profiler.key_averages()
        if event.device_type == DeviceType.CPU
    ]
    total = sum(time for time, _ in times)
    times.sort(key=lambda pair: pair[0], reverse=True)
    rows = [
        dict(operator=event.key, share=time / total, calls=event.count / rounds)
        for time, event in times[:NUM_OPERATORS]
    ]
    rest = times[NUM_OPERATORS:]
    if rest:
        share = sum(time for time, _ in rest) / total
        calls = sum(event.count for _, event in rest) / rounds
        rows.append(dict(operator=REST, share=share, calls=calls))
    return rows


def _kernel_time(event: FunctionEventAvg) -> float:
    name = 'self_device_time_total'
    # Its name before PyTorch 2.4.
    return getattr(event, name if hasattr(event, name) else 'self_cuda_time_total')
