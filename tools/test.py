"""``python tools/test.py``, a door to ``frskd test``."""

from frskd_mm.commands.test import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
