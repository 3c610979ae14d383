"""Compare methods under one recipe: ``frskd compare --methods ...``.

Trains every method with every seed, goes on where an earlier call stopped, and
writes a table, pictures and a report.
"""

import argparse
import os.path as osp
import signal
import sys

from frskd_mm.lab.compare import plan_grid, run_grid, write_report
from frskd_mm.utils.command import CommandParser, command_line
from frskd_mm.utils.optional import require_packages


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--methods',
        required=True,
        help='names as of train --method, with commas between them: '
        'none,label-smoothing,frskd; ce is none, FILE.py a method of your own',
    )
    parser.add_argument(
        '--config', required=True, help='config of the plain student, or package::path'
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time (default: %(default)s); of several, each has one thread',
    )
    parser.add_argument(
        '--out',
        default=osp.join('work_dirs', 'compare'),
        help='folder of runs and report (default: %(default)s)',
    )
    parser.add_argument(
        '--metric', help='name of the quality where it is not accuracy, mIoU or AP'
    )
    parser.add_cfg_options('replace config values for all methods: key=value')
    args = parser.parse_args()
    if args.jobs < 1:
        parser.error(f'--jobs must be 1 or more, not {args.jobs}')
    return args


def main() -> None:
    """Run the grid, print the table and where the report is."""
    args = parse_args()
    require_packages('The comparison', matplotlib='matplotlib', scipy='scipy')
    # Ends the runs, too; without it they would end at their next step.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    runs = plan_grid(
        args.config,
        args.methods.split(','),
        args.seeds,
        args.out,
        args.cfg_options,
        args.metric,
    )
    failed = run_grid(runs, args.jobs)
    command = command_line()
    print('\n' + write_report(runs, args.out, command, args.metric))
    print(f'\nReport: {osp.join(args.out, "report.html")} and report.md')
    if failed:
        sys.exit(f'{len(failed)} of {len(runs)} runs failed; see above.')
