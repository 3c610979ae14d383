"""Write the student alone: ``frskd export CONFIG CHECKPOINT OUT``."""

from frskd_mm.engine import export_student, load_config
from frskd_mm.utils.command import CommandParser


def main() -> None:
    """Export, then say what was written."""
    parser = CommandParser(description=__doc__)
    parser.add_argument('config', help='config the distilled model was trained with')
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument(
        'out', help='checkpoint to write, as student.pth; its config goes beside it'
    )
    parser.add_cfg_options()
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options)
    checkpoint, config = export_student(cfg, args.checkpoint, args.out)
    print(f'Plain student: {checkpoint}\nIts config: {config}')
