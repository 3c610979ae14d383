"""``python tools/describe.py``, a door to ``frskd describe``."""

from frskd_mm.commands.describe import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
