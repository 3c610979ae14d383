"""Timing of several training steps in turns."""

from typing import Any, Callable, Dict, List, Mapping, Sequence

import numpy as np

from frskd_mm.models.distilled import DISTILLER_PREFIX
from frskd_mm.utils.model import count_parameters

from .flops import count_flops, count_inference_macs
from .loader import measure_loader
from .memory import measure_memory
from .operators import profile_operators
from .plan import Arm
from .rounds import Spread, paired_ratio, run_in_turns
from .steps import TrainingStep, Workload


def measure(
    arms: Sequence[Arm],
    workload: Workload,
    rounds: int,
    warmup: int,
    with_data: bool = False,
    with_operators: bool = False,
    after_step: Callable[[], None] = lambda: None,
) -> List[Dict[str, Any]]:
    """Measure arms under one workload.

    Args:
        arms: From :func:`frskd_mm.lab.benchmark.plan.plan_arms`, configured.
        workload: Batch and image size.
        rounds: Measured steps of each arm.
        warmup: Steps of each before them.
        with_data: Time the configs' own data loaders, too.
        with_operators: Find out in which operators the time is spent, too.
        after_step: Called after each of the (rounds + warmup) steps of each arm.

    Returns:
        list[dict]: What was found, in the order of the arms, as for JSON.
    """
    # First, while this process is small.
    memory = {arm.name: measure_memory(arm, workload) for arm in arms}
    steps = {arm.name: arm.build(workload) for arm in arms}
    own_steps = {
        name: step for name, step in steps.items() if isinstance(step, TrainingStep)
    }
    counts = {name: count(step) for name, step in own_steps.items()}
    for step in own_steps.values():
        step.compile()
    seconds = run_in_turns(steps, rounds, warmup, after_step)
    results = []
    for arm in arms:
        own = seconds[arm.name]
        result: Dict[str, Any] = dict(
            name=arm.name,
            baseline=arm.baseline or None,
            seconds={
                phase: Spread.of([s[phase] for s in own]).as_dict() for phase in own[0]
            },
            totals=[s['total'] for s in own],
            images_per_second=steps[arm.name].images
            / float(np.median([s['total'] for s in own])),
            memory_mb=memory[arm.name],
            **counts.get(arm.name, {}),
        )
        if arm.has_method:
            ratio = paired_ratio(own, seconds[arm.baseline])
            result['ratio'] = ratio.as_dict()
            result.update(bound(counts[arm.name], counts[arm.baseline], ratio.median))
        if arm.cfg:
            result['against'] = {
                other.name: paired_ratio(own, seconds[other.name]).as_dict()
                for other in arms
                if other.foreign
            }
        if with_operators:
            result['operators'] = profile_operators(steps[arm.name], rounds)
        if with_data and arm.cfg:
            result['loader'] = measure_loader(
                arm.cfg, own_steps[arm.name], workload.batch_size, rounds
            )
        results.append(result)
    return results


def count(step: TrainingStep) -> Dict[str, int]:
    """Return parameters and operations of a step that is not compiled yet."""
    model = step.model
    distiller = getattr(model, DISTILLER_PREFIX.rstrip('.'), None)
    removed = count_parameters(distiller) if distiller is not None else 0
    parameters = count_parameters(model)
    batch = model.data_preprocessor(step.fresh_batch(), True)
    return dict(
        parameters_training=parameters,
        parameters_inference=parameters - removed,
        inference_macs=count_inference_macs(model, batch),
        step_flops=count_flops(step) // step.interval,
    )


def bound(
    own: Mapping[str, Any], plain: Mapping[str, Any], ratio: float
) -> Dict[str, float]:
    """Compare a measured ratio with that of the arithmetic.

    Args:
        own: The arm's counts.
        plain: Those of its plain student.
        ratio: Measured time over the plain student's.

    Returns:
        dict[str, float]: 'flops_ratio', and 'ratio_to_flops' which is 1 where
        time grows just as the arithmetic does.
    """
    flops_ratio = own['step_flops'] / plain['step_flops']
    return dict(flops_ratio=flops_ratio, ratio_to_flops=ratio / flops_ratio)
