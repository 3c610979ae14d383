"""Logs that speak of all processes."""

from typing import Any, Dict, Optional

from mmengine.dist import all_reduce_dict
from mmengine.hooks import Hook
from mmengine.runner import Runner

from frskd_mm.registry import HOOKS


@HOOKS.register_module()
class MeanLogHook(Hook):
    """Log losses and training accuracies as their means over all processes.

    MMEngine logs what the first process computed on its own images: with 8
    GPUs, an eighth of the batch. With this hook the curve is that of one
    process with the joined batch. It costs one small collective call a step,
    nothing with a single process, and does not change the training.
    """

    # RuntimeInfoHook, which hands the values to the log, is VERY_HIGH.
    priority = 'HIGHEST'

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Replace the step's values in place."""
        if outputs is None:
            return
        means = {name: value.detach().float() for name, value in outputs.items()}
        all_reduce_dict(means, op='mean')
        outputs.update(means)
