"""``python tools/visualize.py``, a door to ``frskd visualize``."""

from frskd_mm.commands.visualize import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
