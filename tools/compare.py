"""``python tools/compare.py``, a door to ``frskd compare``."""

from frskd_mm.commands.compare import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
