"""Write the student alone: ``python tools/export_student.py CONFIG CHECKPOINT OUT``."""

import argparse

from mmengine.config import DictAction

import frskd_mm  # noqa: F401  (lets mmseg::... and frskd_mm::... configs be read)
from frskd_mm.engine import export_student, load_config


def main() -> None:
    """Export, then say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config the distilled model was trained with')
    parser.add_argument('checkpoint', help='training checkpoint')
    parser.add_argument(
        'out', help='checkpoint to write, as student.pth; its config goes beside it'
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='replace config values: key=value, nested keys with dots',
    )
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options)
    checkpoint, config = export_student(cfg, args.checkpoint, args.out)
    print(f'Plain student: {checkpoint}\nIts config: {config}')


if __name__ == '__main__':
    main()
