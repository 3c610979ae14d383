"""Measure what training costs: ``frskd benchmark CONFIG...``.

Plain student and method take turns in one process, on random images: seconds of
a training step by phase, memory, parameters and FLOPs.
"""

import argparse
import json
from typing import Any, Dict, List, Optional, Tuple

import torch
from rich.console import Console

from frskd_mm.engine import load_config
from frskd_mm.lab.benchmark import (
    Point,
    Workload,
    choose_image_size,
    configure_arms,
    draw_sweep,
    measure,
    measure_inference,
    parse_sweep,
    plan_arms,
    plan_sweep,
    report,
    silence,
    sweep_table,
)
from frskd_mm.lab.compare.grid import method_of
from frskd_mm.lab.outputs import check_output
from frskd_mm.utils.bar import Bar
from frskd_mm.utils.checkpoint_files import write_whole
from frskd_mm.utils.command import CommandParser, command_line
from frskd_mm.utils.environment import describe_environment
from frskd_mm.utils.optional import require_packages


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'configs', nargs='+', metavar='config', help='config file, or package::path'
    )
    parser.add_argument(
        '--method',
        help='methods to wrap plain configs with, as train names them, with '
        'commas between them; the plain student is always measured',
    )
    parser.add_argument('--batch-size', type=int, nargs='+', help='default: 32')
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
    parser.add_argument(
        '--data',
        action='store_true',
        help="also train with the configs' own data loaders, to see if they keep up",
    )
    parser.add_argument(
        '--profile',
        action='store_true',
        help='also show in which operators the time is spent',
    )
    parser.add_argument(
        '--inference',
        action='store_true',
        help='also compare the exported student with the plain one',
    )
    parser.add_argument(
        '--sweep',
        nargs='+',
        metavar=('batch|size|levels|width', 'VALUE'),
        help='measure once for each value of one of these',
    )
    parser.add_argument(
        '--plot', metavar='FILE', help='draw what --sweep gives, as PNG'
    )
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_cfg_options('replace values in all configs: key=value')
    args = parser.parse_args()
    for option, kind in (('batch_size', 'batch'), ('image_size', 'size')):
        if args.sweep and args.sweep[0] == kind and getattr(args, option):
            name = option.replace('_', '-')
            parser.error(f'--sweep {kind} varies it: leave --{name} out')
    args.batch_size = args.batch_size or [32]
    for option, values in (
        ('batch-size', args.batch_size),
        ('image-size', args.image_size or []),
        ('steps', [args.steps]),
        ('threads', [1 if args.threads is None else args.threads]),
    ):
        if min(values, default=1) < 1:
            parser.error(f'--{option} must be 1 or more, not {min(values)}')
    if args.warmup < 0:
        parser.error(f'--warmup must be 0 or more, not {args.warmup}')
    if args.plot and not args.sweep:
        parser.error('--plot draws a --sweep; give one')
    if args.sweep and len(args.batch_size) > 1:
        parser.error('--sweep takes one --batch-size; --sweep batch varies it')
    return args


def run(args: argparse.Namespace) -> Tuple[Optional[str], List[Dict[str, Any]]]:
    """Measure what was asked for.

    Returns:
        tuple: What varies, if anything, and the measurements.
    """
    kind = None
    if args.sweep:
        kind, values = parse_sweep(args.sweep)
    configs = [load_config(path, args.cfg_options) for path in args.configs]
    methods = list(map(method_of, args.method.split(','))) if args.method else []
    arms = plan_arms(configs, methods, args.against)
    given = args.image_size
    if kind == 'size':
        given = (values[0], values[0])
    size = tuple(given) if given else choose_image_size(arms)
    if kind:
        workload = Workload(args.batch_size[0], size)
        points = plan_sweep(kind, values, arms, workload)
    else:
        points = [Point(b, arms, Workload(b, size)) for b in args.batch_size]
    options = dict(
        amp=args.amp, compiled=args.compile, channels_last=args.channels_last
    )
    measurements = []
    total = (args.steps + args.warmup) * sum(len(point.arms) for point in points)
    # To the error stream: the tables may go into a file.
    with Bar(total, 'steps', console=Console(stderr=True)) as bar:
        for point in points:
            measurements.append(measure_point(args, point, options, bar))
    return kind, measurements


def measure_point(
    args: argparse.Namespace, point: Point, options: Dict[str, Any], bar: Bar
) -> Dict[str, Any]:
    """Measure all arms under one workload."""
    value, arms, workload = point
    where = f'batch {workload.batch_size}, {"x".join(map(str, workload.image_size))}'
    arms = configure_arms(arms, workload.image_size, **options)
    times = (workload, args.steps, args.warmup)
    found = dict(value=value, **workload._asdict())
    found['arms'] = measure(
        arms,
        *times,
        with_data=args.data,
        with_operators=args.profile,
        after_step=lambda: bar.advance(description=where),
    )
    if args.inference:
        by_name = {arm.name: arm for arm in arms}
        found['inference'] = [
            measure_inference(arm, by_name[arm.baseline], *times)
            for arm in arms
            if arm.is_distilled
        ]
    return found


def main() -> None:
    """Measure, write and print."""
    args = parse_args()
    silence()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.plot:
        require_packages('--plot', matplotlib='matplotlib')
    check_output('--plot', args.plot, picture=True)
    check_output('--json', args.json)
    kind, measurements = run(args)
    if args.json:
        result = dict(
            command=command_line(),
            environment=describe_environment(),
            steps=args.steps,
            warmup=args.warmup,
            sweep=kind,
            measurements=measurements,
        )
        write_whole(args.json, json.dumps(result, indent=2).encode())
    if kind and args.plot:
        draw_sweep(kind, measurements, args.plot)
    print(report(measurements))
    if kind:
        print('\n' + sweep_table(kind, measurements))
