"""Resumed runs go on exactly where they were."""

import bisect
from functools import partial
from typing import Any, Dict, List, Optional

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.followed_loader import (
    Position,
    Start,
    follow,
    random_state,
    set_random_state,
)

#: Entry of a checkpoint.
KEY = 'frskd_mm'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Let an interrupted and resumed run draw what the uninterrupted one draws.

    MMEngine's checkpoints hold no random states and no place within an epoch:
    resumed, a run seeds dropout and augmentation anew and repeats an epoch that a
    checkpoint by iterations lies in. This hook keeps in each checkpoint, for each
    process, the random states of the process and of its loader's workers, and how
    many batches were used. A resumed run goes on with the next batch; skipped ones
    are not loaded. A validation that was due when the checkpoint was written, and
    is not known to have ended, is done first.

    It draws no random number and changes nothing in a run that is not resumed.
    ``frskd_mm.engine`` adds it.

    Args:
        run (dict): What the run is, as ``frskd_mm.engine.resume`` describes it; kept
            in each checkpoint.
    """

    # Last: when the training begins, the other hooks are ready for a validation.
    priority = 'LOWEST'

    @check_arguments()
    def __init__(self, run: Optional[Dict[str, Any]] = None) -> None:
        self.run = run or {}
        self._saved: Dict[str, Any] = {}
        self._gathered: List[Dict[str, Any]] = []
        self._position: Optional[Position] = None
        self._now: Optional[Dict[str, Any]] = None
        self._validated = False
        self._in_epoch = False
        self._restarts = 0

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take out what was saved."""
        self._saved = checkpoint.get(KEY, {})

    def before_gathered_save(self, runner: Runner) -> None:
        """Collect the states of all processes; called by ``SafeCheckpointHook``."""
        position = self._position
        if position is None:
            return
        iterator = getattr(runner.train_loop, 'dataloader_iterator', None)
        own = dict(
            now=random_state(),
            made=position.made,
            num_workers=runner.train_dataloader.num_workers,
            batches=position.batches,
            restarts=getattr(iterator, '_epoch', 0),
            workers=position.workers,
        )
        self._gathered = all_gather_object(own)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put them in the checkpoint."""
        if not self._gathered and get_world_size() == 1:
            # Somebody else saves than SafeCheckpointHook, which asks all processes.
            self.before_gathered_save(runner)
        states, self._gathered = self._gathered, []
        # Checkpoints by epoch count the one that ends just now.
        within = self._in_epoch and checkpoint['meta']['epoch'] == runner.epoch
        checkpoint[KEY] = dict(
            run=self.run,
            states=states,
            validated=self._validated,
            batches_of_epoch=self._position.batches
            if within and self._position is not None
            else 0,
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Note that the weights are not those of the last validation any more."""
        self._validated = False
        if self._now is not None:  # MMEngine has loaded and skipped the batches
            set_random_state(self._now)
            self._now = None

    def before_val(self, runner: Runner) -> None:
        """Note that what is saved from now on, as a best one, is validated."""
        self._validated = True

    def before_train(self, runner: Runner) -> None:
        """Follow the data loader, and go on where the checkpoint was."""
        loop = runner.train_loop
        if not is_followed(loop):
            return
        # MMEngine before its fast resume has made the iterator already.
        iterator: Any = getattr(loop, 'dataloader_iterator', None)
        is_lazy = getattr(iterator, '_iterator', None) is None
        self._position = follow(loop.dataloader) if is_lazy else Position()
        states = self._saved.get('states', [])
        if runner.iter == 0 or not states:
            return
        # A process that was not there before has no random states to go on with, but
        # takes part in all that the others do.
        own = (
            states[get_rank()]
            if get_rank() < len(states)
            else dict(states[0], now=None, made=None, workers={})
        )
        same = own['num_workers'] == loop.dataloader.num_workers
        workers = own['workers'] if same else {}
        start = Start(own['batches'], own['made'], own['now'], workers)
        if isinstance(loop, EpochBasedTrainLoop):
            self._go_on_in_epochs(runner, loop, start)
            return
        set_random_state(start.now)
        self._validate_if_due(runner, loop.iter, loop.max_iters)
        if is_lazy:
            self._restarts = own['restarts']
            self._position.start = start._replace(now=random_state())
            iterator.skip_iter = lambda num_iters: None  # the loader skips them
        else:
            self._now = random_state()

    def before_train_epoch(self, runner: Runner) -> None:
        """Let an iteration loop go on in the right pass over the data."""
        self._in_epoch = True
        if self._position is not None and isinstance(
            runner.train_loop, EpochBasedTrainLoop
        ):
            self._position.is_claimed = True  # the loop's iterator is the next
        if not self._restarts:
            return
        loader, restarts = runner.train_dataloader, self._restarts
        self._restarts = 0
        runner.train_loop.dataloader_iterator._epoch = restarts
        # After MMEngine's hook, which takes all iterations for the first epoch.
        samplers: List[Any] = [loader.sampler]
        samplers.append(getattr(loader.batch_sampler, 'sampler', None))
        for sampler in samplers:
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(restarts)

    def after_train_epoch(self, runner: Runner) -> None:
        """Note that what is saved from now on is not within an epoch."""
        self._in_epoch = False

    def _go_on_in_epochs(
        self, runner: Runner, loop: EpochBasedTrainLoop, start: Start
    ) -> None:
        done = self._saved['batches_of_epoch']
        if done > 0:
            loop.run_epoch = partial(self._end_epoch, runner, loop, start, done)
            return
        self._go_on_after_an_epoch(loop, start)
        self._validate_if_due(runner, loop.epoch, loop.max_epochs)

    @staticmethod
    def _go_on_after_an_epoch(loop: EpochBasedTrainLoop, start: Start) -> None:
        set_random_state(start.now)
        if loop.dataloader.persistent_workers:
            loop.dataloader.position.start = Start(0, None, None, start.workers)

    def _validate_if_due(self, runner: Runner, done: int, last: int) -> None:
        """Do what MMEngine's loop does after an epoch or iteration."""
        loop = runner.train_loop
        if self._saved.get('validated') or runner.val_loop is None:
            return
        step = bisect.bisect(loop.dynamic_milestones, done + 1)
        interval = loop.dynamic_intervals[step - 1]
        if done >= loop.val_begin and (done % interval == 0 or done == last):
            runner.logger.info(
                'The validation that was due when the checkpoint was saved comes first.'
            )
            runner.val_loop.run()

    def _end_epoch(
        self, runner: Runner, loop: EpochBasedTrainLoop, start: Start, done: int
    ) -> None:
        """Run what is left of an epoch, in the place of ``run_epoch``."""
        del loop.run_epoch
        runner.call_hook('before_train_epoch')
        runner.model.train()
        if done < len(loop.dataloader):
            loop.dataloader.position.start = start
            for index, batch in enumerate(loop.dataloader, done):
                loop.run_iter(index, batch)
        else:
            self._go_on_after_an_epoch(loop, start)
        runner.call_hook('after_train_epoch')
        loop._epoch += 1


def is_followed(loop: Any) -> bool:
    """Tell whether a training loop's place in the data can be found again."""
    if isinstance(loop, EpochBasedTrainLoop):
        return type(loop).run_epoch is EpochBasedTrainLoop.run_epoch
    return isinstance(loop, IterBasedTrainLoop)
