"""``python tools/benchmark.py``, a door to ``frskd benchmark``."""

from frskd_mm.commands.benchmark import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
