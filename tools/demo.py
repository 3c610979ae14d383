"""See what FRSKD does, on embedded data: ``python tools/demo.py``.

Trains a plain student and FRSKD with the same recipe and seeds, prints what they
reach and draws learning curves and attention maps. Nothing is downloaded.
"""

import argparse
import os.path as osp

import frskd_mm  # noqa: F401  (lets mmseg::... and frskd_mm::... configs be read)
from frskd_mm.lab.demo import (
    TASKS,
    demo_epochs,
    limit_threads,
    require_task,
    results_table,
    run_demo,
)
from frskd_mm.utils.command import CommandParser, run_command
from frskd_mm.utils.optional import require_packages

CONFIGS = osp.join(osp.dirname(osp.dirname(osp.abspath(__file__))), 'configs')


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--task',
        choices=[*TASKS, 'all'],
        default='all',
        help='classification, segmentation, detection or all of them (default)',
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        help='seeds; the default is 0, 1, ... as time '
        'allows: ' + ', '.join(f'{t.num_seeds} for {n}' for n, t in TASKS.items()),
    )
    parser.add_argument('--epochs', type=int, help="instead of the configs' epochs")
    parser.add_argument(
        '--work-dir',
        default=osp.join('work_dirs', 'demo'),
        help='where pictures, logs and checkpoints go (default: %(default)s)',
    )
    return parser.parse_args()


def main() -> None:
    """Train, then print the table and where the pictures are."""
    args = parse_args()
    require_packages('The demo', sklearn='scikit-learn', matplotlib='matplotlib')
    names = list(TASKS) if args.task == 'all' else [args.task]
    for name in names:
        require_task(TASKS[name])
    limit_threads()
    results = []
    for name in names:
        task = TASKS[name]
        seeds = args.seeds or list(range(task.num_seeds))
        epochs = demo_epochs(CONFIGS, task, args.epochs)
        minutes = task.seconds * epochs * len(seeds) / 60
        print(
            f'\n=== {task.name}: {2 * len(seeds)} networks, {epochs} epochs each; '
            f'about {max(minutes, 0.1):.1f} minutes on two CPU cores ===\n',
            flush=True,
        )
        work_dir = osp.join(args.work_dir, name)
        results.append(run_demo(task, CONFIGS, work_dir, seeds, args.epochs))

    table = results_table(results)
    with open(osp.join(args.work_dir, 'results.md'), 'w', encoding='utf-8') as file:
        file.write(table + '\n')
    pictures = [
        osp.join(args.work_dir, name, picture)
        for name in names
        for picture in ('learning_curves.png', 'attention_maps.png')
    ]
    note = (
        'Mean ± standard deviation over the seeds; one seed is no result, so try\n'
        '--seeds 0 1 2. The self-teacher is used in training only. The FRSKD\n'
        'student is deployed, at the cost of the plain one.'
    )
    print('', table, '', note, '', 'Pictures:', *pictures, sep='\n')
    if names == ['cls']:
        print('\nThe same for segmentation and detection: make demo-all')


if __name__ == '__main__':
    run_command(main)
