"""Training and testing through MMEngine's runner."""

import signal
from types import FrameType
from typing import Dict, Optional

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from frskd_mm.models.distilled import DISTILLER_PREFIX, Distilled
from frskd_mm.utils.checkpoint import (
    find_loading_misfits,
    find_misfits,
    summarize_misfits,
    weights_of,
)
from frskd_mm.utils.environment import require_cuda_ops
from frskd_mm.utils.explain import explained
from frskd_mm.utils.model import build_model, unwrap

from .config import check_checkpoint_file, check_data_roots, check_sample_indices
from .processes import join_cpu_processes
from .samples import report_skipped, watch_samples

#: Of mmseg's heads that only training needs. What is evaluated may lack them.
AUXILIARY_PREFIX = 'auxiliary_head.'


def build_runner(cfg: Config) -> Runner:
    """Build the runner that the config asks for.

    Raises:
        ValueError: If the strategy could not go on with an interrupted run, or
            ``load_from`` is not a complete checkpoint.
        FileNotFoundError: If ``load_from`` does not exist.
    """
    if cfg.get('load_from'):
        check_checkpoint_file(cfg.load_from)
    if (cfg.get('strategy') or {}).get('type') == 'FSDPStrategy':
        raise ValueError(
            "MMEngine's FSDPStrategy cannot --resume with this PyTorch. Set "
            "strategy.type='frskd_mm.FSDPStrategy' in the config."
        )
    join_cpu_processes(cfg)
    with explained(cfg):
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
    watch_samples(runner, cfg)
    return runner


def train(cfg: Config) -> Runner:
    """Train as the config says.

    SIGTERM ends the run with exit code 143 and a word on how to go on.

    Args:
        cfg: Complete training config with ``work_dir``.

    Returns:
        Runner: After training.

    Raises:
        ValueError: If the run to be resumed is of another model, or the method cannot
            use the training set.
        FileNotFoundError: If the data are not where the config says.
    """
    require_cuda_ops(cfg.get('default_scope'))
    check_data_roots(cfg, ['train_dataloader', 'val_dataloader'])
    check_sample_indices(cfg)
    signal.signal(signal.SIGTERM, _stop)
    runner = build_runner(cfg)
    if cfg.get('resume') and isinstance(runner, Runner):
        _check_resumable(runner, cfg)
    try:
        with explained(cfg):  # loops, data sets and optimisers are built there
            runner.train()
    finally:
        report_skipped(runner.log_dir)
    return runner


def _check_resumable(runner: Runner, cfg: Config) -> None:
    """Refuse to go on with a run of another model.

    Raises:
        ValueError: If the checkpoint's weights are not all those of the model.
    """
    path = cfg.get('load_from') or find_latest_checkpoint(cfg.work_dir)
    if path is None:
        return
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    model = unwrap(runner.model)
    misfits = summarize_misfits(
        find_misfits(model.state_dict(), weights_of(checkpoint))
    )
    if misfits:
        raise ValueError(
            f'{path} is of another model than the config, so the run cannot be '
            f'resumed: {misfits}. Give the config and the --method of that run, or '
            "begin a new one from its weights with --cfg-options load_from='...' "
            'instead of --resume.'
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
    cfg.load_from, cfg.resume = checkpoint, False
    runner = build_runner(cfg)
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
    misfits = summarize_misfits(find_loading_misfits(model, weights, ignored))
    if misfits:
        raise ValueError(
            f'{cfg.load_from} is of another model than the config, so what it would '
            f'score means nothing: {misfits}. Give the config that it was trained '
            'with, or the file of this one.'
        )
