"""The demo: plain student against FRSKD on the embedded digits."""

import os
import os.path as osp
from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from frskd_mm.engine.config import configure_run, load_config
from frskd_mm.engine.runs import train
from frskd_mm.utils.environment import (
    has_host,
    has_operators,
    missing_host,
    rebuild_command,
)
from frskd_mm.visualization.attention_maps import attention_maps, draw_attention_maps

from .statistics import mean_std
from .tables import markdown_table
from .visualization.learning_curves import (
    Curves,
    draw_learning_curves,
    read_curves,
)

NUM_PICTURES = 4
MAKE_ALL = 'In a checkout, make demo-all does so.'


class DemoTask(NamedTuple):
    """What the demo trains for one task."""

    name: str
    #: Config files below ``configs``, of the plain student and of FRSKD.
    plain: str
    frskd: str
    #: The evaluator's name of the metric, what to call it, and its factor.
    metric: str
    metric_label: str
    scale: float
    #: How many seeds fit into the demo's time.
    num_seeds: int
    #: The library that its models come from.
    host: str
    #: Rough time of training both, per seed and epoch, on two CPU cores.
    seconds: float


TASKS: Dict[str, DemoTask] = {
    'cls': DemoTask(
        name='Classification of handwritten digits',
        plain='digits/wrn10-1_digits.py',
        frskd='digits/frskd_wrn10-1_digits.py',
        metric='accuracy/top1',
        metric_label='test accuracy (%)',
        scale=1.0,
        num_seeds=3,
        host='mmpretrain',
        seconds=1.6,
    ),
    'seg': DemoTask(
        name='Semantic segmentation of digit scenes',
        plain='digits/fcn_r18-c16_digit-scenes.py',
        frskd='digits/frskd_fcn_r18-c16_digit-scenes.py',
        metric='mIoU',
        metric_label='test mIoU (%)',
        scale=1.0,
        num_seeds=1,
        host='mmseg',
        seconds=3.3,
    ),
    'det': DemoTask(
        name='Detection of digits in scenes',
        plain='digits/retinanet_r18-c16_digit-scenes.py',
        frskd='digits/frskd_retinanet_r18-c16_digit-scenes.py',
        metric='coco/bbox_mAP',
        metric_label='test box AP (%)',
        scale=100.0,
        num_seeds=1,
        host='mmdet',
        seconds=3.3,
    ),
}


class DemoResult(NamedTuple):
    """What one task gave, a value a seed, in the metric's unit."""

    task: DemoTask
    seeds: List[int]
    plain: List[float]
    frskd: List[float]
    self_teacher: List[float]


def require_task(task: DemoTask) -> None:
    """Raise before any training if what the task needs is not installed.

    Args:
        task: What to train.

    Raises:
        ImportError: If its host library is missing, or needs mmcv's operators and
            these are missing.
    """
    if not has_host(task.host):
        raise ImportError(f'{missing_host(task.host, task.name)}. {MAKE_ALL}')
    if task.host != 'mmpretrain' and not has_operators():
        raise ImportError(
            f'{task.name} needs the operators of mmcv, which was installed without '
            f'them. Build it anew: {rebuild_command()}. {MAKE_ALL}'
        )


def demo_config(
    path: str, work_dir: str, seed: int, epochs: Optional[int] = None
) -> Config:
    """Read a config and make it one of several runs in a process.

    Args:
        path: Config file.
        work_dir: Where its log and checkpoint go.
        seed: Seed of weights, order and augmentation.
        epochs: Train so many epochs instead of the config's.
    """
    cfg = load_config(path)
    cfg.randomness = dict(seed=seed)
    # MMEngine keeps loggers and visualisers by name: each run needs its own.
    cfg.experiment_name = osp.abspath(work_dir).replace(os.sep, '_')
    if 'visualizer' in cfg:
        cfg.visualizer.name = cfg.experiment_name
    if epochs is not None:
        cfg.train_cfg.max_epochs = epochs
        cfg.train_cfg.val_interval = max(1, epochs // 4)
        cfg.default_hooks.checkpoint.interval = epochs
    return configure_run(cfg, work_dir)


def demo_epochs(config_dir: str, task: DemoTask, epochs: Optional[int]) -> int:
    """Return how many epochs a run of the task has."""
    if epochs is not None:
        return epochs
    return load_config(osp.join(config_dir, task.plain)).train_cfg.max_epochs


def run_demo(
    task: DemoTask,
    config_dir: str,
    work_dir: str,
    seeds: Sequence[int],
    epochs: Optional[int] = None,
) -> DemoResult:
    """Train the plain student and FRSKD, and draw what they learned.

    Writes ``learning_curves.png`` and ``attention_maps.png`` to ``work_dir``, and says
    after each seed what both have reached.

    Args:
        task: What to train.
        config_dir: The repository's ``configs``.
        work_dir: Where pictures, logs and checkpoints go.
        seeds: Seeds; both methods are trained once with each.
        epochs: Train so many epochs instead of the config's.
    """
    curves: Dict[str, List[Curves]] = {'plain': [], 'frskd': []}
    self_teacher: List[float] = []
    for seed in seeds:
        for method in ('plain', 'frskd'):
            cfg = demo_config(
                osp.join(config_dir, getattr(task, method)),
                osp.join(work_dir, f'{method}_seed{seed}'),
                seed,
                epochs,
            )
            runner = train(cfg)
            log = osp.join(runner.log_dir, 'vis_data', 'scalars.json')
            curves[method].append(read_curves(log, task.metric, task.scale))
        print(_result_of_seed(task, seed, curves), flush=True)
        with runner.model.as_self_teacher():
            self_teacher.append(task.scale * runner.test()[task.metric])
    level = float(np.mean(self_teacher))
    draw_learning_curves(
        {'plain student': curves['plain'], 'FRSKD student': curves['frskd']},
        metric_label=task.metric_label,
        title=task.name,
        path=osp.join(work_dir, 'learning_curves.png'),
        levels={'self-teacher at the end (training only)': level},
    )
    _draw_attention(runner, task, osp.join(work_dir, 'attention_maps.png'))
    return DemoResult(
        task,
        list(seeds),
        [curve.metrics[-1] for curve in curves['plain']],
        [curve.metrics[-1] for curve in curves['frskd']],
        self_teacher,
    )


def _result_of_seed(task: DemoTask, seed: int, curves: Dict[str, List[Curves]]) -> str:
    plain, frskd = (runs[-1].metrics[-1] for runs in curves.values())
    return (
        f'\n=== seed {seed}, {task.metric_label}: {plain:.1f} plain, '
        f'{frskd:.1f} with FRSKD ===\n'
    )


def _draw_attention(runner: Runner, task: DemoTask, path: str) -> None:
    dataset = runner.test_dataloader.dataset
    spread = np.linspace(0, len(dataset) - 1, NUM_PICTURES).astype(int)
    samples = [dataset[index] for index in spread]
    batch = runner.test_dataloader.collate_fn(samples)
    inputs = runner.model.data_preprocessor(batch, False)['inputs']
    images = [sample['inputs'].permute(1, 2, 0).numpy() for sample in samples]
    draw_attention_maps(
        images,
        attention_maps(runner.model, inputs),
        title=f'{task.name}: where the FRSKD student and its self-teacher look',
        path=path,
    )


def results_table(results: Sequence[DemoResult]) -> str:
    """Return the results as a Markdown table, mean ± std over the seeds.

    The gain is taken seed by seed.
    """
    rows = [['', 'seeds', 'plain student', 'FRSKD student', 'gain', 'self-teacher']]
    for result in results:
        gains = np.subtract(result.frskd, result.plain)
        rows.append(
            [
                f'{result.task.name}: {result.task.metric_label}',
                ', '.join(map(str, result.seeds)),
                mean_std(result.plain, digits=1),
                mean_std(result.frskd, digits=1),
                '+' * (gains.mean() > 0) + mean_std(gains, digits=1),
                mean_std(result.self_teacher, digits=1),
            ]
        )
    return markdown_table(rows)


def limit_threads() -> None:
    """Let torch use at most four threads: the networks are tiny."""
    torch.set_num_threads(min(4, torch.get_num_threads()))
