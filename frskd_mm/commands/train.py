"""Train a model: ``frskd train CONFIG``."""

import argparse
import os
import sys

from frskd_mm.engine import configure_run, load_config, resolve_work_dir, train, wrap
from frskd_mm.engine.methods import PLAIN, method_name
from frskd_mm.hooks import ProgressBarHook
from frskd_mm.utils.command import CommandParser


def parse_args() -> argparse.Namespace:
    """Define the command line; the options are those of the host libraries."""
    parser = CommandParser(description=__doc__)
    parser.add_argument('config', help='config file, or package::path')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from this checkpoint, or from the newest one of the work '
        'directory when no path is given',
    )
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the real batch size',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='do not evaluate during training'
    )
    parser.add_cfg_options()
    parser.add_argument(
        '--method',
        help="train with this method: 'none' for the plain model, 'frskd', 'frskd-f' "
        '(soft labels only), or another file of configs/_base_/methods; FILE.py is '
        'one of your own; by default the config is taken as it is',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none'
    )
    # torch.distributed.launch passes it in one spelling or the other.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def main() -> None:
    """Read the config, apply the options, train."""
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    name, method = args.config, None
    if args.method not in (None, PLAIN):
        cfg = wrap(cfg, args.method)
        name, method = cfg.filename, method_name(args.method)
    given = args.work_dir or (args.cfg_options or {}).get('work_dir')
    cfg = configure_run(
        cfg,
        work_dir=resolve_work_dir(cfg, name, given, method),
        launcher=args.launcher,
        resume=args.resume,
        amp=args.amp,
        auto_scale_lr=args.auto_scale_lr,
        validate=not args.no_validate,
    )
    bar = ProgressBarHook()
    try:
        train(cfg, hooks=[bar] if sys.stdout.isatty() else [])
    finally:
        bar.close()
