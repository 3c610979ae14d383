"""Random numbers that depend on the epoch, not on what ran before."""

from functools import partial

from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

from frskd_mm.registry import HOOKS


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every epoch from the run's seed and the epoch's number.

    MMEngine checkpoints hold no random states. With them derived from seed
    and epoch, a run that was interrupted and resumed draws what the
    uninterrupted run draws, in the main process and in the data loader's
    workers, and ends with the same weights. Without this hook, workers that
    are started anew each epoch repeat the same augmentations, too.

    Workers are seeded when they start, so ``persistent_workers`` must be off.
    """

    # Distillation needs no order among hooks; early, so that others that draw
    # random numbers find the state.
    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        """Refuse workers that outlive an epoch.

        Raises:
            ValueError: If the training data loader has persistent workers.
        """
        if runner.train_dataloader.persistent_workers:
            raise ValueError(
                'EpochSeedHook seeds workers when they start: set '
                'train_dataloader.persistent_workers=False, or remove the hook '
                'from custom_hooks (runs then differ after a resume).'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        """Seed the main process and the workers that are about to start."""
        # Epochs are spaced so that ranks and workers, which MMEngine numbers
        # upwards from the seed, never share one.
        seed = (runner.seed + 1_000_003 * (runner.epoch + 1)) % 2**31
        set_random_seed(seed + get_rank())
        loader = runner.train_dataloader
        loader.worker_init_fn = partial(
            worker_init_fn,
            num_workers=loader.num_workers,
            rank=get_rank(),
            seed=seed,
            disable_subprocess_warning=True,
        )
