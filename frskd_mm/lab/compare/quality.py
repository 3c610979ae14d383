"""Which metric counts, and whether the evaluators give it."""

import logging
import os
import os.path as osp
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import EVALUATOR, DefaultScope
from mmengine.runner import Runner

from frskd_mm.hooks.self_teacher_metric_hook import OUTPUTS
from frskd_mm.utils.metrics import numbers_of
from frskd_mm.utils.model import build_model
from frskd_mm.utils.random import isolated_rng
from frskd_mm.utils.scope import type_name

#: Prefix of the calibration's metrics, which classifiers get beside their own.
CALIBRATION = 'compare'
#: How many test images show which metrics there are.
MAX_IMAGES = 8


class Column(NamedTuple):
    """A metric of the evaluators in the table."""

    metric: str
    label: str
    scale: float = 1.0
    digits: int = 2
    lower_is_better: bool = False


#: What each host's evaluators call the quality; the first that is there counts.
QUALITY = (
    Column('accuracy/top1', 'top-1 accuracy (%)'),
    Column('mIoU', 'mIoU (%)'),
    Column('coco/bbox_mAP', 'box AP (%)', 100.0),
    Column('pascal_voc/mAP', 'mAP (%)', 100.0),
)
#: Shown beside the quality where they are there.
OTHERS = (
    Column('coco/bbox_mAP_50', 'box AP50 (%)', 100.0),
    Column('coco/segm_mAP', 'mask AP (%)', 100.0),
    Column(f'{CALIBRATION}/NLL', 'NLL', digits=3, lower_is_better=True),
    Column(f'{CALIBRATION}/ECE', 'ECE (%)', 100.0, lower_is_better=True),
    Column(f'{CALIBRATION}/AURC', 'AURC (‰)', 1000.0, digits=1, lower_is_better=True),
)


def find_quality(names: Iterable[str], metric: Optional[str]) -> Column:
    """Return the metric that counts.

    Args:
        names: What the evaluators gave.
        metric: The one that is wanted, of which more is better; None for the host's
            usual one.

    Raises:
        ValueError: If it is not among them; lists them. If less of it is better.
    """
    names = set(names)
    known = [c for c in (*QUALITY, *OTHERS) if c.metric == metric]
    for column in QUALITY if metric is None else known:
        if column.metric not in names:
            continue
        if column.lower_is_better:
            raise ValueError(
                f'--metric {metric}: of what counts, more must be better, but of the '
                f'{column.label} less is. The table has it beside the quality anyway.'
            )
        return column
    if metric in names:
        return Column(metric, metric, digits=4)
    if not names:
        raise ValueError(
            'The evaluators gave no metrics at all. A detector has no AP while it '
            'detects nothing: train longer, or lower the score_thr of its test_cfg.'
        )
    raise ValueError(
        f'The evaluators gave no {metric or "metric that is known here"}. Name one of '
        f'these with --metric: {", ".join(sorted(names))}.'
    )


def with_calibration(evaluator: Any, out_file: Optional[str] = None) -> Any:
    """Return a test evaluator with the calibration beside a classifier's accuracy.

    Args:
        evaluator: A config's ``test_evaluator``.
        out_file: Where the calibration writes its predictions.
    """
    metrics = list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]
    if not any(
        type_name(metric.get('type')).endswith('Accuracy') for metric in metrics
    ):
        return evaluator
    calibration = dict(type='frskd_mm.Calibration', prefix=CALIBRATION)
    return [*metrics, {**calibration, 'out_file': out_file}]


def with_outputs_below(evaluator: Any, folder: str) -> Any:
    """Return an evaluator whose metrics write their own files below a folder.

    Args:
        evaluator: Its config, or a list of metrics.
        folder: What they write to ``../a/b`` goes to ``a/b`` in it.
    """
    evaluator = deepcopy(evaluator)
    _move_outputs(evaluator, folder)
    return evaluator


def _move_outputs(part: Any, folder: str) -> None:
    if isinstance(part, dict):
        for name in OUTPUTS:
            given = part.get(name)
            if isinstance(given, str) and given:
                inner = osp.normpath(osp.join(os.sep, given)).lstrip(os.sep)
                part[name] = osp.join(folder, inner)
                os.makedirs(osp.dirname(part[name]), exist_ok=True)
    for value in _parts_of(part):
        _move_outputs(value, folder)


def check_quality(cfg: Config, metric: Optional[str]) -> None:
    """Refuse a metric that the evaluators do not give, before anything is trained.

    The untrained student is evaluated on the first images of the test set. What fails
    there for lack of more images, or of an accelerator, is left to the test.

    Args:
        cfg: Config of the plain student.
        metric: As in :func:`find_quality`.

    Raises:
        ValueError: If the evaluators do not give the metric.
    """
    cfg = deepcopy(cfg)
    _set_all(cfg.model, 'score_thr', 0.0)  # so that detectors detect something
    loader_cfg = cfg.test_dataloader
    loader_cfg.update(num_workers=0, persistent_workers=False)
    loader_cfg.pop('prefetch_factor', None)
    if 'batch_size' in loader_cfg:
        loader_cfg.batch_size = min(loader_cfg.batch_size, MAX_IMAGES)
    found: Dict[str, Any] = {}
    problem: Optional[Exception] = None
    scope = DefaultScope.overwrite_default_scope(cfg.get('default_scope'))
    with scope, _quiet(), isolated_rng(), torch.no_grad(), TemporaryDirectory() as own:
        # Some metrics empty their folder when they are built.
        evaluator_cfg = with_outputs_below(cfg.test_evaluator, own)
        evaluator = _build_evaluator(with_calibration(evaluator_cfg))
        loader = Runner.build_dataloader(loader_cfg, seed=0)
        evaluator.dataset_meta = getattr(loader.dataset, 'metainfo', None)
        model = build_model(cfg).eval()
        batch = next(iter(loader))
        try:
            outputs = model.test_step(batch)
            evaluator.process(data_samples=outputs, data_batch=batch)
            found = evaluator.evaluate(len(loader.dataset))
        except Exception as error:
            problem = error
    if problem is not None:
        print(f'The metric was not tried before training: {problem}')
    elif found:
        find_quality(numbers_of(found, nan=True), metric)


def _build_evaluator(cfg: Any) -> Evaluator:
    """Build an evaluator as the runner does."""
    if isinstance(cfg, dict) and 'metrics' in cfg:
        return EVALUATOR.build({'type': 'Evaluator', **cfg})
    return Evaluator(cfg)


def _set_all(cfg: Any, key: str, value: Any) -> None:
    """Set a key wherever nested values have it."""
    if isinstance(cfg, dict) and key in cfg:
        cfg[key] = value
    for part in _parts_of(cfg):
        _set_all(part, key, value)


def _parts_of(cfg: Any) -> Iterable[Any]:
    """Return what a dictionary or list holds."""
    parts = cfg.values() if isinstance(cfg, dict) else cfg
    return parts if isinstance(cfg, (dict, list, tuple)) else ()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep evaluators from printing their tables."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
