"""tools/check_models.py tries a config in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize('method', ['frskd', 'none'])
def test_one_config_is_tried(method):
    command = [sys.executable, str(ROOT / 'tools' / 'check_models.py')]
    command += ['--config', 'configs/digits/wrn10-1_digits.py', '--method', method]
    printed = subprocess.run(
        command, check=True, cwd=ROOT, capture_output=True, text=True
    ).stdout
    result = json.loads(printed.splitlines()[-1].partition('RESULT ')[2])
    assert result['student'] > 70_000
    assert (result['distiller'] > 0) == (method == 'frskd')
    assert bool(result['absent']) == (method == 'none')
    assert not result['unused']
