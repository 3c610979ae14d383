"""Compare methods under one recipe: ``frskd compare --methods ...``.

Trains every method with every seed, goes on where an earlier call stopped, and
writes a table, pictures and a report.
"""

import argparse
import os.path as osp
import signal
import sys
from typing import List

from frskd_mm.lab.compare import (
    Run,
    describe_trial,
    plan_grid,
    plan_quick,
    run_grid,
    write_report,
)
from frskd_mm.lab.compare.quick import PART, SEEDS, trained_part
from frskd_mm.utils.command import CommandParser, command_line
from frskd_mm.utils.optional import require_packages


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--methods',
        help='names as of train --method, with commas between them: '
        'none,label-smoothing,frskd; ce is none, FILE.py a method of your own',
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        '--config', help='config of the plain student, or package::path'
    )
    source.add_argument(
        '--quick',
        metavar='CONFIG',
        help='try methods on a part of its schedule and its validation data instead, '
        'and say what that lets expect',
    )
    parser.add_argument(
        '--part',
        type=float,
        help=f'of --quick: the part of the schedule, up to 1 (default: {PART})',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='default: 0 1 2; of --quick ' + ' '.join(map(str, SEEDS)),
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time (default: %(default)s); of several, each has one thread',
    )
    parser.add_argument(
        '--out',
        help='folder of runs and report (default: work_dirs/compare; of --quick '
        'work_dirs/quick)',
    )
    parser.add_argument(
        '--metric',
        help='name of the quality, of which more is better, where it is not accuracy, '
        'mIoU or AP',
    )
    parser.add_cfg_options('replace config values for all methods: key=value')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {args.jobs}')
    if args.config and not args.methods:
        parser.error('--methods names what to compare: ce,label-smoothing,frskd')
    if args.config and args.part is not None:
        parser.error('--part belongs to --quick; METHOD@0.5 trains half as long')
    args.out = args.out or osp.join('work_dirs', 'quick' if args.quick else 'compare')
    args.part = PART if args.part is None else args.part
    return args


def main() -> None:
    """Run the grid, print the table and where the report is."""
    args = parse_args()
    require_packages('The comparison', matplotlib='matplotlib', scipy='scipy')
    # Ends the runs, too; without it they would end at their next step.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    runs = _plan_quick(args) if args.quick else _plan(args)
    part = args.part  # of the config as it is now
    if args.quick:
        part = trained_part(args.quick, args.part, args.cfg_options)
    try:
        failed = run_grid(runs, args.jobs)
    except KeyboardInterrupt:
        print('Stopped. The same command goes on with what is not finished.')
        sys.exit(128 + signal.SIGINT)
    command = command_line()
    print('\n' + write_report(runs, args.out, command, args.metric))
    if args.quick:
        print('\n' + describe_trial(runs, part, args.metric))
    print(f'\nReport: {osp.join(args.out, "report.html")} and report.md')
    if failed:
        sys.exit(f'{len(failed)} of {len(runs)} runs failed; see above.')


def _plan(args: argparse.Namespace) -> List[Run]:
    return plan_grid(
        args.config,
        args.methods.split(','),
        args.seeds or [0, 1, 2],
        args.out,
        args.cfg_options,
        args.metric,
    )


def _plan_quick(args: argparse.Namespace) -> List[Run]:
    return plan_quick(
        args.quick,
        args.out,
        args.methods.split(',') if args.methods else None,
        args.seeds or SEEDS,
        args.part,
        args.cfg_options,
        args.metric,
    )
