"""The fault campaign of docs/reliability.md, in short."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize('case', ['frskd', 'iterations', 'two', 'ps-kd', 'detector'])
def test_nothing_is_lost(tmp_path, case):
    command = [sys.executable, 'tests/fault_campaign.py', '--cases', case]
    done = subprocess.run(
        [*command, '--kills', '2', '--out', str(tmp_path)],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
