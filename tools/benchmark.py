"""Measure what training costs: ``python tools/benchmark.py CONFIG...``.

Plain student and method take turns in one process, on random images: seconds of
a training step by phase, memory, parameters and FLOPs.
"""

import argparse
import json
import shlex
import sys

import torch
from mmengine.config import DictAction

import frskd_mm  # noqa: F401  (lets mmseg::... and frskd_mm::... configs be read)
from frskd_mm.benchmark import (
    Workload,
    choose_image_size,
    configure,
    environment,
    measure,
    plan_arms,
    report,
    silence,
)
from frskd_mm.engine import load_config


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'configs', nargs='+', metavar='config', help='config file, or package::path'
    )
    parser.add_argument(
        '--method',
        help='methods to wrap plain configs with, as tools/train.py names them, with '
        'commas between them; the plain student is always measured',
    )
    parser.add_argument('--batch-size', type=int, nargs='+', default=[32])
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="by default the config's",
    )
    parser.add_argument(
        '--steps',
        type=int,
        default=20,
        help='measured steps of each (default: %(default)s)',
    )
    parser.add_argument(
        '--warmup', type=int, default=3, help='steps before them (default: %(default)s)'
    )
    parser.add_argument('--threads', type=int, help='CPU threads')
    parser.add_argument(
        '--against',
        nargs='+',
        default=[],
        metavar='MODULE:FUNCTION',
        help='training steps of other code: the function gets (batch_size, '
        'image_size, num_classes) and returns a function that does one step',
    )
    parser.add_argument('--amp', action='store_true', help='use mixed precision')
    parser.add_argument('--compile', action='store_true', help='use torch.compile')
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument(
        '--channels-last',
        action='store_const',
        const=True,
        help='memory layout; by default as the config has it',
    )
    layout.add_argument(
        '--no-channels-last', dest='channels_last', action='store_const', const=False
    )
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='replace values in all configs: key=value',
    )
    args = parser.parse_args()
    numbers = dict(
        batch_size=args.batch_size,
        image_size=args.image_size or [],
        steps=[args.steps],
        threads=[] if args.threads is None else [args.threads],
    )
    for name, values in numbers.items():
        for value in values:
            if value < 1:
                option = name.replace('_', '-')
                parser.error(f'--{option} must be 1 or more, not {value}')
    if args.warmup < 0:
        parser.error(f'--warmup must be 0 or more, not {args.warmup}')
    return args


def main() -> None:
    """Measure and print."""
    args = parse_args()
    silence()
    if args.threads:
        torch.set_num_threads(args.threads)
    methods = args.method.split(',') if args.method else []
    try:
        configs = [load_config(path, args.cfg_options) for path in args.configs]
        arms = plan_arms(configs, methods, args.against)
        image_size = tuple(args.image_size or choose_image_size(arms))
        arms = [
            arm._replace(
                cfg=configure(
                    arm.cfg, image_size, args.amp, args.compile, args.channels_last
                )
            )
            if arm.cfg
            else arm
            for arm in arms
        ]
        measurements = []
        for batch_size in args.batch_size:
            workload = Workload(batch_size, image_size)
            found = measure(arms, workload, args.steps, args.warmup)
            measurements.append(dict(**workload._asdict(), arms=found))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f'{type(error).__name__}: {error}')
    print(report(measurements))
    if args.json:
        result = dict(
            command=shlex.join(['python', *sys.argv]),
            environment=environment(),
            steps=args.steps,
            warmup=args.warmup,
            measurements=measurements,
        )
        with open(args.json, 'w', encoding='utf-8') as file:
            json.dump(result, file, indent=2)


if __name__ == '__main__':
    main()
