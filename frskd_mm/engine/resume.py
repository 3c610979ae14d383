"""What is checked before a run goes on from a checkpoint."""

from typing import Any, Dict, List

from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch.utils.data import IterableDataset, RandomSampler

from frskd_mm.hooks import EpochSeedHook
from frskd_mm.hooks.exact_resume_hook import KEY, is_followed
from frskd_mm.utils.checkpoint import find_misfits, summarize_misfits, weights_of
from frskd_mm.utils.checkpoint_files import find_checkpoint
from frskd_mm.utils.model import unwrap
from frskd_mm.utils.scope import type_name

from .config import AUTO, check_checkpoint_file, out_folders

INSTEAD = (
    "or begin a new one from its weights with --cfg-options load_from='...' instead "
    'of --resume'
)


def describe_run(cfg: Config) -> Dict[str, Any]:
    """Return what must stay as it is when a run is resumed.

    Args:
        cfg: Training config; the processes have met.
    """
    loader = cfg.get('train_dataloader') or {}
    batch_size = loader.get('batch_size')
    if batch_size is None:
        batch_size = (loader.get('batch_sampler') or {}).get('batch_size')
    wrapper = cfg.get('optim_wrapper') or {}
    distiller = cfg.model.get('distiller') or {}
    processes = get_world_size()
    return dict(
        method=type_name(distiller.get('type')),
        optimizer=type_name((wrapper.get('optimizer') or {}).get('type')),
        batch_size=batch_size * processes if isinstance(batch_size, int) else None,
        processes=processes,
        num_workers=loader.get('num_workers', 0),
    )


def choose_checkpoint(runner: Runner, cfg: Config) -> None:
    """Let a run that goes on by itself do so from its newest whole checkpoint.

    Raises:
        ValueError: If none of them is whole.
    """
    start = cfg.get('load_from')
    if not cfg.get('resume') or (start and cfg.resume != AUTO):
        return
    found = find_checkpoint(cfg.work_dir, out_folders(cfg))
    for line in found.damaged:
        runner.logger.warning(f'Damaged checkpoint {line}. The one before is used.')
    if found.damaged and found.path is None:
        raise ValueError(
            'No checkpoint to resume from: '
            + '; '.join(found.damaged)
            + '. Begin anew '
            'without --resume, or give another checkpoint as --resume PATH.'
        )
    if found.path is None:
        runner.logger.warning(f'No checkpoint in {cfg.work_dir}: the run begins anew.')
    if found.path is None and start:
        check_checkpoint_file(start)
    runner._load_from = found.path or start  # not in the config, which is kept
    runner._resume = found.path is not None


def check_resumable(runner: Runner, cfg: Config, was_finished: bool) -> None:
    """Refuse to go on with another run, and say what will not be as it was.

    Args:
        runner: Before its training.
        cfg: Its config.
        was_finished: Whether the training before has ended as its config said.

    Raises:
        ValueError: If the run is finished, or its checkpoint is of another model,
            method or optimiser, or of another batch size within an epoch.
    """
    path = runner._load_from
    if not runner._resume:
        return
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    saved = checkpoint.get(KEY, {})
    then, now = saved.get('run', {}), describe_run(cfg)
    _check_same(path, then, now)
    misfits = summarize_misfits(
        find_misfits(unwrap(runner.model).state_dict(), weights_of(checkpoint))
    )
    if misfits:
        raise ValueError(
            f'{path} is of another model than the config, so the run cannot be '
            f'resumed: {misfits}. Give the config and the --method of that run, '
            f'{INSTEAD}.'
        )
    for key in ('meta', 'message_hub', 'optimizer'):
        if key not in checkpoint:
            raise ValueError(
                f'{path} is no training checkpoint: it has no {key!r}. Resume from '
                'epoch_*.pth or iter_*.pth of a work directory, '
                f'{INSTEAD}.'
            )
    loop, meta = runner.train_loop, checkpoint['meta']
    _check_unfinished(path, loop, meta, was_finished or runner.val_loop is None)
    for line in _differences(runner, meta, saved, then, now):
        runner.logger.warning(
            f'Resuming from {path}: {line}. The run goes on, but not as if it had '
            'not been interrupted.'
        )


def _check_same(path: str, then: Dict[str, Any], now: Dict[str, Any]) -> None:
    for key, name, option in (
        ('method', 'method', 'the --method'),
        ('optimizer', 'optimiser', 'the optim_wrapper.optimizer'),
    ):
        if key in then and then[key] != now[key]:
            raise ValueError(
                f'{path} was trained with the {name} {then[key]}, the config has '
                f'{now[key]}, so the run cannot be resumed. Give {option} of that '
                f'run, {INSTEAD}.'
            )


def _check_unfinished(
    path: str, loop: Any, meta: Dict[str, Any], is_complete: bool
) -> None:
    unit = 'epoch' if isinstance(loop, EpochBasedTrainLoop) else 'iter'
    done, last = meta[unit], getattr(loop, f'max_{unit}s')
    if done > last or (done == last and is_complete):
        raise ValueError(
            f'The run is finished: {path} has {done} of {last} {unit}s. Evaluate it '
            f'with frskd test; to train longer, raise train_cfg.max_{unit}s and '
            'see to the learning rate schedule.'
        )


def _differences(
    runner: Runner,
    meta: Dict[str, Any],
    saved: Dict[str, Any],
    then: Dict[str, Any],
    now: Dict[str, Any],
) -> List[str]:
    """Return why the run will not equal an uninterrupted one."""
    loop = runner.train_loop
    within = meta['iter'] - meta['epoch'] * len(loop.dataloader)
    within = saved.get('batches_of_epoch', within)
    in_epochs = isinstance(loop, EpochBasedTrainLoop)
    lines = []
    names = dict(
        batch_size='the batch size (over all processes)',
        processes='the number of processes',
        num_workers='train_dataloader.num_workers',
    )
    changed = [key for key in names if key in then and then[key] != now[key]]
    if in_epochs and 'batch_size' in changed and within:
        raise ValueError(
            f'The checkpoint is of the middle of an epoch with batches of '
            f'{then["batch_size"]}; the config has {now["batch_size"]} (over all '
            f'processes), which the epoch cannot go on with. Set '
            f'train_dataloader.batch_size as it was, {INSTEAD}.'
        )
    lines += [f'{names[k]} is {now[k]}, it was {then[k]}' for k in changed]
    if not is_followed(loop):
        lines.append(f'{type(loop).__name__} is no loop of MMEngine')
    elif not saved.get('states') and (
        within or not any(isinstance(hook, EpochSeedHook) for hook in runner.hooks)
    ):
        lines.append(
            'it has no random states, as those of MMEngine and of frskd_mm before '
            'this version; dropout and augmentation are seeded anew'
            + (', and the epoch that it lies in is repeated' if within else '')
        )
    sampler = getattr(loop.dataloader, 'sampler', None)
    if isinstance(loop.dataloader.dataset, IterableDataset):
        lines.append('an iterable data set begins anew')
    elif isinstance(sampler, RandomSampler) and sampler.generator is None:
        lines.append("the sampler draws from PyTorch's generator for all")
    distiller = getattr(unwrap(runner.model), 'distiller', None)
    if getattr(distiller, 'carries_batches', False) and (within or not in_epochs):
        lines.append(f'{type(distiller).__name__} lacks the batch before')
    count = (runner.cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)
    if count > 1 and meta['iter'] % count:
        lines.append('gradients that were accumulated for the next step are lost')
    return lines
