"""Evaluate a checkpoint: ``frskd test CONFIG CHECKPOINT``."""

import argparse
import os

from frskd_mm.engine import configure_run, evaluate, load_config, resolve_work_dir
from frskd_mm.utils.command import CommandParser


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument('config', help='config file, or package::path')
    parser.add_argument(
        'checkpoint', help='training checkpoint or exported student; both work'
    )
    parser.add_argument('--work-dir', help='where the log goes')
    parser.add_argument(
        '--self-teacher',
        action='store_true',
        help='evaluate the self-teacher instead of the student',
    )
    parser.add_cfg_options()
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Read the config, evaluate, print the metrics."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    configure_run(
        cfg,
        work_dir=resolve_work_dir(cfg, args.config, args.work_dir),
        launcher=args.launcher,
    )
    metrics = evaluate(cfg, args.checkpoint, self_teacher=args.self_teacher)
    print('\n'.join(f'{name}: {value}' for name, value in metrics.items()))
