"""``python tools/train.py``, a door to ``frskd train``."""

from frskd_mm.commands.train import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
