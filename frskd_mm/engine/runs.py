"""Training and testing through MMEngine's runner."""

import os.path as osp
import signal
import threading
from contextlib import contextmanager
from copy import deepcopy
from types import FrameType
from typing import Any, Dict, Iterator, Optional, Sequence

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from torch.utils.data import DataLoader

from frskd_mm.hooks import (
    AggregatedPredictionHook,
    ExactResumeHook,
    NonFiniteHook,
    SafeCheckpointHook,
)
from frskd_mm.models.distilled import DISTILLER_PREFIX, Distilled
from frskd_mm.utils.checkpoint import (
    find_loading_misfits,
    summarize_misfits,
    weights_of,
)
from frskd_mm.utils.checkpoint_files import write_files_whole
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.compiling import require_compile
from frskd_mm.utils.environment import require_cuda_ops
from frskd_mm.utils.explain import explained
from frskd_mm.utils.model import build_model, unwrap

from .config import (
    AUTO,
    check_checkpoint_file,
    check_data_roots,
    check_sample_indices,
    renamed,
    resolve_work_dir,
)
from .heartbeat import watch_processes
from .processes import join_cpu_processes
from .resume import check_resumable, choose_checkpoint, describe_run
from .samples import report_skipped, watch_samples
from .work_dir_lock import hold_work_dir

#: Of mmseg's heads that only training needs. What is evaluated may lack them.
AUXILIARY_PREFIX = 'auxiliary_head.'
JOINT_HEAD_PREFIX = f'{DISTILLER_PREFIX}joint_head.'
#: What the names of the configs of evaluations begin with.
EVALUATED = 'test_'


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config asks for, made safe.

    Files are written whole, and three hooks see to checkpoints, to values that are
    not finite and to an exact resume: see docs/reliability.md. They are not in
    the config, which stays that of the host library.

    Raises:
        ValueError: If the strategy could not go on with an interrupted run,
            ``load_from`` is not a complete checkpoint, or ``non_finite`` is no rule.
        FileNotFoundError: If ``load_from`` does not exist.
    """
    if cfg.get('resume') == AUTO:
        # To MMEngine it means load_from; choose_checkpoint sets what is gone on from.
        cfg = deepcopy(cfg)
        cfg.resume = False
    elif cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from)
    if (cfg.get('strategy') or {}).get('type') == 'FSDPStrategy':
        raise ValueError(
            "MMEngine's FSDPStrategy cannot --resume with this PyTorch. Set "
            "strategy.type='frskd_mm.FSDPStrategy' in the config."
        )
    non_finite = NonFiniteHook(cfg.get('non_finite', 'stop'))
    join_cpu_processes(cfg)
    write_files_whole()
    with explained(cfg):
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
    SafeCheckpointHook.adopt(runner.hooks)
    runner.register_hook(non_finite)
    runner.register_hook(ExactResumeHook(describe_run(cfg)))
    watch_samples(runner, cfg)
    return runner


def train(cfg: Config, hooks: Sequence[Hook] = ()) -> Runner:
    """Train as the config says.

    SIGTERM ends the run with exit code 143 and a word on how to go on.

    Args:
        cfg: Complete training config with ``work_dir``.
        hooks: Hooks beside those of the config, which stays as it is.

    Returns:
        Runner: After training.

    Raises:
        ValueError: If there is no ``work_dir``, the run to be resumed is another one
            or finished, the data loader gives no batch, or the method cannot use the
            training set.
        FileNotFoundError: If the data are not where the config says.
        BlockingIOError: If another training runs in the work directory.
        UntrustedCheckpointError: If a checkpoint could run code.
        FloatingPointError: If a term or a gradient is not finite.
    """
    require_cuda_ops(cfg.get('default_scope'))
    require_compile(cfg.get('compile'))
    check_data_roots(cfg, ['train_dataloader', 'val_dataloader'])
    check_sample_indices(cfg)
    if not cfg.get('work_dir'):
        raise ValueError(
            'The config has no work_dir, where logs and checkpoints go. Set '
            'cfg.work_dir, or call configure_run(cfg, work_dir=...).'
        )
    held = hold_work_dir(cfg.work_dir, cfg.get('launcher', 'none'))
    safe = checkpoints_as_data(cfg)
    with _sigterm_stops(), safe, watch_processes(cfg), held as lock:
        try:
            runner = build_runner(cfg)
            for hook in hooks:
                runner.register_hook(hook)
            choose_checkpoint(runner, cfg)
            with explained(cfg):  # loops, data sets and optimisers are built there
                check_batches(runner.train_loop.dataloader)
                if cfg.get('resume') and isinstance(runner, Runner):
                    check_resumable(runner, cfg, lock.was_finished)
        except BaseException:
            if lock.was_finished:  # and still is: nothing was trained
                lock.note('finished')
            raise
        try:
            with explained(cfg):
                runner.train()
        finally:
            report_skipped(runner.log_dir)
        lock.note('finished')
    return runner


@contextmanager
def _sigterm_stops() -> Iterator[None]:
    """Let SIGTERM end what runs inside as an exception does.

    Python lets only the main thread choose that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check_batches(loader: DataLoader) -> None:
    """Refuse a training loader that gives nothing to train on.

    Raises:
        ValueError: If so.
    """
    if not hasattr(loader.dataset, '__len__') or len(loader) > 0:
        return
    raise ValueError(
        f'train_dataloader gives no batch: the data set has {len(loader.dataset)} '
        f'samples, a batch {loader.batch_size}'
        + (
            ', and drop_last leaves out what does not fill one'
            if loader.drop_last
            else ''
        )
        + '. Lower train_dataloader.batch_size, set train_dataloader.drop_last=False, '
        'or see to the data set.'
    )


def _stop(signum: int, frame: Optional[FrameType]) -> None:
    print(
        'Stopped by SIGTERM. Finished epochs are saved: run the same command with '
        '--resume to go on from the last one.'
    )
    raise SystemExit(128 + signum)


def evaluate(
    cfg: Config, checkpoint: str, self_teacher: bool = False
) -> Dict[str, float]:
    """Evaluate a training checkpoint or an exported student.

    Args:
        cfg: Config with a test data loader and evaluator.
        checkpoint: File to evaluate.
        self_teacher: Evaluate the self-teacher instead of the student.

    Returns:
        dict[str, float]: The evaluator's metrics.

    Raises:
        ValueError: If the checkpoint is of another model than the config, or the
            self-teacher is wanted but there is none.
    """
    require_cuda_ops(cfg.get('default_scope'))
    check_data_roots(cfg, ['test_dataloader'])
    with checkpoints_as_data(cfg):
        return _evaluate(cfg, checkpoint, self_teacher)


def _evaluate(cfg: Config, checkpoint: str, self_teacher: bool) -> Dict[str, float]:
    work_dir = resolve_work_dir(cfg, cfg.filename or 'config.py', None)
    cfg = renamed(cfg, _evaluated_name(cfg))
    cfg.load_from, cfg.resume, cfg.work_dir = checkpoint, False, work_dir
    runner = build_runner(cfg)
    if self_teacher and not isinstance(runner, Runner):
        raise ValueError(
            f'--self-teacher needs the plain Runner, not the {type(runner).__name__}. '
            'Test with runner_type=Runner and without the strategy.'
        )
    model = unwrap(runner.model)
    if self_teacher and not isinstance(model, Distilled):
        raise ValueError(
            'The config is of a plain student, which has no self-teacher. Pass the '
            'config that the distilled model was trained with.'
        )
    _check_fit(runner, cfg, self_teacher)
    if not self_teacher:
        with explained(cfg):
            return runner.test()
    runner.load_or_resume()
    if model.loaded_plain:
        raise ValueError(
            f'{checkpoint} holds the student alone. Pass a training checkpoint to '
            'evaluate the self-teacher.'
        )
    with model.as_self_teacher(), explained(cfg):
        return runner.test()


def _evaluated_name(cfg: Config) -> str:
    """Return a name that the training's config in the same folder does not have.

    The runner writes it there with the weights that it evaluates as ``load_from``.
    """
    name = osp.basename(cfg.filename or 'config.py')
    return name if name.startswith(EVALUATED) else f'{EVALUATED}{name}'


def _check_fit(runner: Runner, cfg: Config, self_teacher: bool) -> None:
    """Refuse weights of another model, of which MMEngine only warns.

    Raises:
        ValueError: If a tensor that predictions depend on is missing, unknown or of
            another shape.
    """
    loaded = CheckpointLoader.load_checkpoint(cfg.load_from, map_location='cpu')
    weights = weights_of(loaded)
    # FlexibleRunner builds its model when it starts.
    model = unwrap(runner.model) if isinstance(runner, Runner) else build_model(cfg)
    ignored = (
        [AUXILIARY_PREFIX] if self_teacher else [AUXILIARY_PREFIX, DISTILLER_PREFIX]
    )
    _check_joint_head(runner, model, weights)
    misfits = summarize_misfits(find_loading_misfits(model, weights, ignored))
    if misfits:
        raise ValueError(
            f'{cfg.load_from} is of another model than the config, so what it would '
            f'score means nothing: {misfits}. Give the config that it was trained '
            'with, or the file of this one.'
        )


def _check_joint_head(
    runner: Runner, model: BaseModel, weights: Dict[str, Any]
) -> None:
    """Refuse to aggregate predictions by a joint head that was not trained.

    Raises:
        ValueError: If the hook that does so is there, but not the head's weights.
    """
    if not any(isinstance(hook, AggregatedPredictionHook) for hook in runner.hooks):
        return
    own = [key for key in model.state_dict() if key.startswith(JOINT_HEAD_PREFIX)]
    if not all(key in weights for key in own):
        raise ValueError(
            'AggregatedPredictionHook predicts with the joint head, which the '
            'checkpoint does not have. Evaluate a training checkpoint, or take the '
            'hook out of custom_hooks.'
        )
