"""The script of the paper's table, tried out on the CPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]


def run(*parts, **settings):
    return subprocess.run(
        ['bash', 'tools/gpu_table.sh', *parts],
        capture_output=True,
        text=True,
        cwd=REPO,
        env={**os.environ, 'VENV': sys.prefix, **settings},
    )


def test_it_says_what_it_does_and_what_is_wrong():
    usage = run()
    assert usage.returncode == 1
    assert 'MINUTES' in usage.stdout
    assert not usage.stdout.startswith('#')
    for parts, settings, words in (
        (['nonsense'], {}, 'There is no part nonsense'),
        (['table'], {'VENV': '/nowhere'}, 'gpu_table.sh env'),
        (['table'], {'DEVICE': 'cpu', 'RECIPES': 'weak'}, 'no recipe weak'),
        (['tests'], {'CUDA_VISIBLE_DEVICES': '-1'}, 'sees no GPU'),
    ):
        result = run(*parts, **settings)
        assert result.returncode == 1
        assert words in result.stderr


@pytest.mark.parametrize(
    ('code', 'calls', 'words'),
    [
        (0, 4, ''),
        (1, 4, 'Some runs failed, .*: wrn16-2-paper resnet18-paper wrn16-2-strong'),
        (2, 1, ''),  # a mistake
        (143, 1, ''),  # a signal
    ],
)
def test_failed_runs_do_not_end_the_table(tmp_path, code, calls, words):
    """With an interpreter that notes its call and ends as a comparison may."""
    python = tmp_path / 'bin/python'
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/calls\nexit {code}\n')
    python.chmod(0o755)
    done = run('table', VENV=str(tmp_path), DEVICE='cpu', SEEDS='0')
    assert done.returncode == (code > 0)
    assert len((tmp_path / 'calls').read_text().splitlines()) == calls
    assert re.search(words, done.stderr)
    assert ('Some runs failed' in done.stderr) == bool(words)


@pytest.mark.slow
def test_a_table_that_its_time_ends_goes_on(tmp_path, data_root):
    settings = {
        'DEVICE': 'cpu',
        'EPOCHS': '2',
        'SEEDS': '0',
        'STUDENTS': 'wrn16-2',
        'RECIPES': 'strong',
        'METHODS': 'ce,frskd-attached',
        'JOBS': '1',
        'OUT': str(tmp_path),
        'OPTIONS': ' '.join(
            f'{name}_dataloader.dataset.num_per_class=1'
            for name in ('train', 'val', 'test')
        ),
    }
    ended = run('table', MINUTES='0.05', **settings)
    assert ended.returncode == 0, ended.stderr
    report = tmp_path / 'wrn16-2-strong/report.md'
    assert not report.exists()
    whole = run('table', **settings)
    assert whole.returncode == 0, whole.stderr
    assert 'frskd-attached' in report.read_text()
