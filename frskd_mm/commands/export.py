"""Write the student alone: ``frskd export CONFIG CHECKPOINT OUT``.

As a checkpoint of its library, or with ``--format`` as a graph that runs without it:
onnx for ONNX Runtime, torch for ``torch.export``.
"""

import argparse

from frskd_mm.engine import export_graph, export_student, load_config
from frskd_mm.utils.command import CommandParser
from frskd_mm.utils.image_size import find_image_size


def main() -> None:
    """Export, then say what was written."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config the distilled model was trained with')
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument(
        'out',
        help='file to write: student.pth, its config goes beside it; student.onnx or '
        'student.pt2 with --format',
    )
    parser.add_argument(
        '--format',
        choices=['checkpoint', 'onnx', 'torch'],
        default='checkpoint',
        help='what to write (default: %(default)s)',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images that the graph takes (default: of the training)',
    )
    parser.add_cfg_options()
    args = parser.parse_args()
    if args.image_size and args.format == 'checkpoint':
        parser.error('--image-size is for --format onnx or torch')
    cfg = load_config(args.config, args.cfg_options)
    if args.format == 'checkpoint':
        checkpoint, config = export_student(cfg, args.checkpoint, args.out)
        print(f'Plain student: {checkpoint}\nIts config: {config}')
        return
    height, width = args.image_size or find_image_size(cfg)
    found = export_graph(cfg, args.checkpoint, args.out, (height, width), args.format)
    print(
        f'Plain student: {found.path}\n'
        f'Input: images (N, C, {height}, {width})\n'
        f'Outputs: {", ".join(found.outputs)}\n'
        f'Largest difference to PyTorch: {max(found.differences.values()):.1e}'
    )
