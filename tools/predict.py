"""``python tools/predict.py``, a door to ``frskd predict``."""

from frskd_mm.commands.predict import main
from frskd_mm.utils.command import run_command

if __name__ == '__main__':
    run_command(main)
