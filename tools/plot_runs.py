"""Compare finished runs: ``python tools/plot_runs.py --run NAME DIR [DIR ...]``."""

from typing import Dict, List

from frskd_mm.lab.outputs import check_output
from frskd_mm.lab.statistics import mean_std
from frskd_mm.lab.visualization.learning_curves import (
    Curves,
    draw_learning_curves,
    read_curves,
)
from frskd_mm.utils.command import CommandParser, run_command


def main() -> None:
    """Print the final metric of each method and draw the curves."""
    parser = CommandParser(description=__doc__)
    parser.add_argument(
        '--run',
        nargs='+',
        action='append',
        required=True,
        metavar=('NAME', 'DIR'),
        help="a method's name and its work directories, one a seed; repeat it",
    )
    parser.add_argument('--metric', default='accuracy/top1', help='metric in the log')
    parser.add_argument(
        '--scale', type=float, default=1.0, help='100 if the metric is a fraction'
    )
    parser.add_argument('--label', help='name of the metric in the picture')
    parser.add_argument('--title', default='', help='heading of the picture')
    parser.add_argument('--out', help='PNG of the learning curves to write')
    args = parser.parse_args()
    check_output('--out', args.out, picture=True)
    lacking = [name for name, *work_dirs in args.run if not work_dirs]
    if lacking:
        parser.error(f'--run {lacking[0]}: name a work directory behind the method')
    runs: Dict[str, List[Curves]] = {}
    for name, *work_dirs in args.run:
        found = [read_curves(d, args.metric, args.scale) for d in work_dirs]
        runs.setdefault(name, []).extend(found)
    for name, seeds in runs.items():
        values = [seed.metrics[-1] for seed in seeds]
        print(f'{name}: {mean_std(values)}  ({", ".join(f"{v:.2f}" for v in values)})')
    if args.out:
        draw_learning_curves(runs, args.label or args.metric, args.title, args.out)
        print(args.out)


if __name__ == '__main__':
    run_command(main)
