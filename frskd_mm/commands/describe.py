"""Say what a model is: ``frskd describe CONFIG``.

Levels, parts with their parameters and FLOPs, which term of the loss trains which
part, and what a training step costs beside the plain student's.
"""

import argparse

from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.benchmark import silence
from frskd_mm.lab.describe import describe, describe_text
from frskd_mm.utils.command import CommandParser


def parse_args() -> argparse.Namespace:
    """Define the command line."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file, or package::path')
    parser.add_argument(
        '--method', help='wrap a plain config with this method, as train does'
    )
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help="by default the config's",
    )
    parser.add_argument(
        '--measure', action='store_true', help='also measure what a step takes here'
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=8,
        help='of a measured step (default: %(default)s)',
    )
    parser.add_cfg_options()
    args = parser.parse_args()
    if args.batch_size < 2:
        parser.error(f'--batch-size must be 2 or more, not {args.batch_size}')
    if args.image_size and min(args.image_size) < 1:
        parser.error(f'--image-size must be 1 or more, not {min(args.image_size)}')
    return args


def main() -> None:
    """Describe, and print the tables."""
    args = parse_args()
    silence()
    cfg = load_config(args.config, args.cfg_options)
    if args.method is not None:
        cfg = wrap(cfg, args.method)
    size = tuple(args.image_size) if args.image_size else None
    print(describe_text(describe(cfg, size, args.measure, args.batch_size)))
