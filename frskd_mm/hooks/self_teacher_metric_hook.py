"""What the self-teacher itself scores, beside its student."""

import os
import os.path as osp
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.amp import autocast

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import at_least, check_arguments
from frskd_mm.utils.metrics import numbers_of
from frskd_mm.utils.model import unwrap
from frskd_mm.utils.random import isolated_rng

#: Where metrics of the hosts, and Calibration, say which files they write.
OUTPUTS = (
    'out_file',
    'out_file_path',
    'outfile_prefix',
    'output_dir',
    'seg_out_dir',
)


@contextmanager
def own_files(metrics: Sequence[Any]) -> Iterator[None]:
    """Let metrics write the self-teacher's predictions beside the student's.

    Args:
        metrics: Of an evaluator; their files are called ``self_teacher_...`` within.
    """
    kept = []
    for metric in metrics:
        for name in OUTPUTS:
            given = getattr(metric, name, None)
            if isinstance(given, str) and given:
                kept.append((metric, name, given))
                folder, file = osp.split(given.rstrip('/'))
                own = osp.join(folder, f'self_teacher_{file}')
                if osp.isdir(given):  # they make it when they are built
                    os.makedirs(own, exist_ok=True)
                setattr(metric, name, own)
    try:
        yield
    finally:
        for metric, name, given in kept:
            setattr(metric, name, given)


@HOOKS.register_module()
class SelfTeacherMetricHook(Hook):
    """Validate the self-teacher after the student, on the same data.

    A self-teacher that is no better than its student cannot teach it. Its
    metrics are logged as ``self_teacher/accuracy/top1`` and so on, in the log and
    in all backends of the visualizer. They take no part in choosing the best
    checkpoint, draw no random numbers, and cost a second validation. Measured are
    the weights that train, not their average (EMA).

    Args:
        interval (int): Validations from one measurement to the next.
            Defaults to 1.

    Raises:
        TypeError: When validation begins, if the model has no self-teacher, or one
            that cannot predict without labels.
    """

    # After hooks that exchange the student's own way to predict.
    priority = 'LOWEST'

    @check_arguments(interval=at_least(1))
    def __init__(self, interval: int = 1) -> None:
        self.interval = interval
        self._validations = 0

    def before_val(self, runner: Runner) -> None:
        """Refuse models without a self-teacher before anything is run."""
        model = unwrap(runner.model)
        if not getattr(model, 'self_teacher_predicts', False):
            raise TypeError(
                'SelfTeacherMetricHook needs a model distilled by FRSKD, got a '
                f'{type(model).__name__} without a self-teacher, or with one that '
                'cannot predict without labels. Remove the hook from custom_hooks.'
            )

    def after_val(self, runner: Runner) -> None:
        """Validate and log."""
        self._validations += 1
        if self._validations % self.interval:
            return
        metrics = {
            f'self_teacher/{name}': value
            for name, value in numbers_of(self._run(runner)).items()
        }
        by_iter = isinstance(runner._train_loop, IterBasedTrainLoop)
        step = runner.iter if by_iter else runner.epoch
        # Not in the message hub, whose values the next validation would log again.
        runner.visualizer.add_scalars(metrics, step=step)
        values = '  '.join(f'{name}: {value:.4f}' for name, value in metrics.items())
        runner.logger.info(f'Self-teacher(val) [{step}]  {values}')

    @torch.no_grad()
    def _run(self, runner: Runner) -> Dict[str, Any]:
        loop: Any = runner.val_loop
        runner.model.eval()
        with own_files(loop.evaluator.metrics):
            with isolated_rng(), unwrap(runner.model).as_self_teacher():
                for data_batch in loop.dataloader:
                    with autocast(enabled=loop.fp16):
                        outputs = runner.model.val_step(data_batch)
                    loop.evaluator.process(data_samples=outputs, data_batch=data_batch)
            return loop.evaluator.evaluate(len(loop.dataloader.dataset))
