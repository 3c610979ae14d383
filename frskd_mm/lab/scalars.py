"""What MMEngine logs of a run."""

import json
import os.path as osp
from contextlib import suppress
from glob import escape, glob
from typing import Any, Dict, Iterator, List, Tuple


def read_scalars(work_dir: str) -> List[Dict[str, Any]]:
    """Return what the runs in a work directory logged, joined as one run's log.

    A run that was resumed logs anew what it did after the checkpoint: the later
    line counts. One that began from the start replaces what was there.

    Args:
        work_dir: Its ``*/vis_data/scalars.json`` are read, the newest last.

    Returns:
        list[dict]: Lines of validation, then of training, each by step.

    Raises:
        FileNotFoundError: If there is none.
    """
    paths = sorted(glob(osp.join(escape(work_dir), '*', 'vis_data', 'scalars.json')))
    if not paths:
        raise FileNotFoundError(
            f'{work_dir} has no log of a training (*/vis_data/scalars.json).'
        )
    merged: Dict[Tuple[bool, int], Dict[str, Any]] = {}
    for path in paths:
        log: Dict[Tuple[bool, int], Dict[str, Any]] = {}
        # A validation of the self-teacher has a line of its own.
        for line in _read_lines(path):
            log.setdefault(('loss' in line, line['step']), {}).update(line)
        if _first_step(log) <= _first_step(merged):
            merged.clear()
        merged.update(log)
    return [merged[key] for key in sorted(merged)]


def _read_lines(path: str) -> Iterator[Dict[str, Any]]:
    """Read the lines of a log that are whole: a kill may cut the last one off."""
    with open(path, encoding='utf-8', errors='replace') as file:
        for text in file:
            with suppress(json.JSONDecodeError):
                yield json.loads(text)


def _first_step(log: Dict[Tuple[bool, int], Any]) -> float:
    """Return the first step of training."""
    steps = (step for is_training, step in log if is_training)
    return min(steps, default=float('inf'))
