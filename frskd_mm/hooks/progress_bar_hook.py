"""A bar of the training's progress, for those who sit before it."""

from typing import Any, Optional

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from frskd_mm.utils.bar import Bar


class ProgressBarHook(Hook):
    """Draw how much of the training is done and the time left, in a terminal.

    The log's lines are printed above it as ever. Nothing is drawn where the output
    goes into a file, and by other processes than the first. ``frskd train`` adds it;
    it is in no config. Whoever adds it closes it in the end: a training that fails
    calls no hooks.
    """

    # After the logger's, whose line of this iteration comes first.
    priority = 'LOWEST'

    def __init__(self) -> None:
        self.bar: Optional[Bar] = None

    def before_train(self, runner: Runner) -> None:
        """Begin to draw."""
        if not is_main_process():
            return
        self.bar = Bar(runner.max_iters, 'iterations', lines=False)
        self.bar.__enter__()
        self.bar.catch_logger(runner.logger)
        # What a run that is resumed did before took none of this run's time.
        self.bar.progress.update(self.bar.task, completed=runner.iter)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[dict] = None,
    ) -> None:
        """Draw from time to time."""
        if self.bar is not None:
            self.bar.advance(1, 'training')

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """Say that a validation is under way."""
        if self.bar is not None:
            self.bar.show(f'validating, {batch_idx + 1} batches')

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.__exit__()
            self.bar = None
