"""Is the data loader the bottleneck?"""

import time
from copy import deepcopy
from typing import Any, Dict, Iterator, List

from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from frskd_mm.engine.runs import check_batches

from .rounds import Spread
from .steps import TrainingStep


def measure_loader(
    cfg: Config, step: TrainingStep, batch_size: int, rounds: int
) -> Dict[str, Any]:
    """Time the config's own training data loader, alone and with a step.

    Args:
        cfg: Training config with its data at hand.
        step: The step that uses the batches.
        batch_size: Replaces the config's.
        rounds: How many batches are timed each time.

    Returns:
        dict: 'images_per_second' of the loader alone; 'wait' and 'step', the
        seconds that a training loop waits for a batch and takes for it while
        the loader prepares the next ones.

    Raises:
        ValueError: If the config has no training data, or too few for a batch.
    """
    if not cfg.get('train_dataloader'):
        raise ValueError('--data: the config has no train_dataloader.')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        loader_cfg = deepcopy(cfg.train_dataloader)
        loader_cfg.batch_size = batch_size
        loader = Runner.build_dataloader(loader_cfg, seed=0)
    check_batches(loader)
    # Until what was prepared ahead is used up.
    ahead = 1 + loader.num_workers * (loader.prefetch_factor or 0)
    batches = _endless(loader)
    for _ in range(ahead):
        next(batches)
    began = time.perf_counter()
    for _ in range(rounds):
        next(batches)
    alone = (time.perf_counter() - began) / rounds
    waits: List[float] = []
    steps: List[float] = []
    for number in range(ahead + rounds):
        began = time.perf_counter()
        for _ in range(step.interval):  # as many steps are computed
            batch = next(batches)
        waited = (time.perf_counter() - began) / step.interval
        taken = step([batch])['total']
        if number >= ahead:
            waits.append(waited)
            steps.append(taken)
    return dict(
        images_per_second=batch_size / alone,
        workers=loader.num_workers,
        wait=Spread.of(waits).as_dict(),
        step=Spread.of(steps).as_dict(),
    )


def _endless(loader: DataLoader) -> Iterator[Any]:
    """Go through the data again and again, as training does."""
    while True:
        yield from loader
