"""The benchmark's tables."""

from typing import Any, Dict, List, Sequence

from frskd_mm.lab.tables import markdown_table

from .steps import PHASES

LEGEND = (
    'Seconds: median of the measured steps [quartiles]. Ratio: to the plain student '
    'in the same round, median [quartiles]. FLOPs: of the whole step, forward and '
    'backward, over that of the plain student. Memory: peak of a process of its own, '
    'or of tensors on a GPU; step: what is above the memory before the first step.'
)


def report(measurements: Sequence[Dict[str, Any]]) -> str:
    """Return everything that was measured as Markdown tables.

    Args:
        measurements: One a workload, each with the workload and its 'arms'.
    """
    parts = []
    for found in measurements:
        height, width = found['image_size']
        parts.append(f'Batch {found["batch_size"]}, images {height}x{width}')
        parts.append(markdown_table(_time_table(found['arms'])))
        parts.append(markdown_table(_size_table(found['arms'])))
        for optional in (_against_table, _loader_table):
            rows = optional(found['arms'])
            if len(rows) > 1:
                parts.append(markdown_table(rows))
        parts += [
            markdown_table(_operator_table(arm))
            for arm in found['arms']
            if 'operators' in arm
        ]
        if found.get('inference'):
            parts.append(markdown_table(_inference_table(found['inference'])))
    return '\n\n'.join([*parts, LEGEND])


def _seconds(spread: Dict[str, float]) -> str:
    return f'{spread["median"]:.4f} [{spread["q1"]:.4f}, {spread["q3"]:.4f}]'


def _ratio(spread: Dict[str, float]) -> str:
    return f'{spread["median"]:.2f} [{spread["q1"]:.2f}, {spread["q3"]:.2f}]'


def _time_table(arms: Sequence[Dict[str, Any]]) -> List[List[str]]:
    rows = [['arm', 'seconds', *PHASES, 'images/s', 'ratio', 'FLOPs', 'ratio ÷ FLOPs']]
    for arm in arms:
        seconds = arm['seconds']
        row = [arm['name'], _seconds(seconds['total'])]
        row += [
            f'{seconds[phase]["median"]:.4f}' if phase in seconds else '–'
            for phase in PHASES
        ]
        row.append(f'{arm["images_per_second"]:.1f}')
        if 'ratio' in arm:
            row += [_ratio(arm['ratio']), f'{arm["flops_ratio"]:.2f}']
            row.append(f'{arm["ratio_to_flops"]:.2f}')
        else:
            row += ['1' if arm['name'] == arm['baseline'] else '–', '–', '–']
        rows.append(row)
    return rows


def _size_table(arms: Sequence[Dict[str, Any]]) -> List[List[str]]:
    header = ['arm', 'peak memory (MB)', 'of the step (MB)', 'parameters in training']
    header += ['in use', 'GFLOPs of a step', 'GMACs in use']
    rows = [header]
    for arm in arms:
        memory = arm['memory_mb']
        row = [arm['name'], f'{memory["peak"]:.0f}', f'{memory["step"]:.0f}']
        if 'step_flops' in arm:
            row += [
                f'{arm["parameters_training"]:,}',
                f'{arm["parameters_inference"]:,}',
            ]
            row.append(f'{arm["step_flops"] / 1e9:.4g}')
            row.append(f'{arm["inference_macs"] / 1e9:.4g}')
        else:
            row += ['–'] * 4
        rows.append(row)
    return rows


def _against_table(arms: Sequence[Dict[str, Any]]) -> List[List[str]]:
    """Return ours over theirs."""
    by_name = {arm['name']: arm for arm in arms}
    rows = [['ours ÷ theirs', 'theirs', 'seconds', 'peak memory', 'of the step']]
    for arm in arms:
        for name, ratio in arm.get('against', {}).items():
            own, other = arm['memory_mb'], by_name[name]['memory_mb']
            row = [arm['name'], name, _ratio(ratio)]
            row += [
                f'{own[key] / other[key]:.2f}' if other[key] else '–'
                for key in ('peak', 'step')
            ]
            rows.append(row)
    return rows


def _loader_table(arms: Sequence[Dict[str, Any]]) -> List[List[str]]:
    header = ['training on the data', 'loader alone (images/s)', 'workers']
    rows = [[*header, 'step (s)', 'wait for a batch (s)', 'waiting']]
    for arm in arms:
        if 'loader' in arm:
            found = arm['loader']
            step, wait = found['step']['median'], found['wait']['median']
            row = [arm['name'], f'{found["images_per_second"]:.1f}']
            row += [str(found['workers']), _seconds(found['step'])]
            row += [_seconds(found['wait']), f'{100 * wait / (wait + step):.1f} %']
            rows.append(row)
    return rows


def _operator_table(arm: Dict[str, Any]) -> List[List[str]]:
    rows = [[f'operators of {arm["name"]}', 'share of the time', 'calls']]
    for found in arm['operators']:
        rows.append(
            [found['operator'], f'{100 * found["share"]:.1f} %', f'{found["calls"]:g}']
        )
    return rows


def _inference_table(found: Sequence[Dict[str, Any]]) -> List[List[str]]:
    header = ['exported student of', 'seconds', 'plain student', 'ratio', 'parameters']
    rows = [[*header, 'plain student', 'outputs bit-identical']]
    for arm in found:
        seconds, parameters = arm['seconds'], arm['parameters']
        row = [arm['name'], _seconds(seconds['exported']), _seconds(seconds['plain'])]
        row += [_ratio(arm['ratio']), f'{parameters["exported"]:,}']
        row += [f'{parameters["plain"]:,}', 'yes' if arm['identical'] else 'NO']
        rows.append(row)
    return rows
