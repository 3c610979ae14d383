"""Draw a distilled model: ``python tools/draw_architecture.py CONFIG OUT``."""

import torch

import frskd_mm  # noqa: F401  (lets mmseg::... and frskd_mm::... configs be read)
from frskd_mm.engine import load_config
from frskd_mm.lab.outputs import check_output
from frskd_mm.lab.visualization.architecture import draw_architecture
from frskd_mm.utils.command import CommandParser, run_command
from frskd_mm.utils.model import build_model


def main() -> None:
    """Build the model and draw it."""
    parser = CommandParser(description=__doc__)
    parser.add_argument('config', help='config of a model with FRSKD')
    parser.add_argument('out', help='picture to write, .png or .svg')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(32, 32), help='image height and width'
    )
    args = parser.parse_args()
    check_output('OUT', args.out, picture=True)
    model = build_model(load_config(args.config))
    if getattr(getattr(model, 'distiller', None), 'self_teacher', None) is None:
        parser.error(f'{args.config} has no self-teacher to draw; name one with FRSKD')
    draw_architecture(model, torch.zeros(1, 3, *args.size), args.out)
    print(args.out)


if __name__ == '__main__':
    run_command(main)
