"""``python tools/export_student.py``, a door to ``frskd export``."""

from frskd_mm.commands.export import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
