"""tools/plot_runs.py: finished runs in the terminal and in a picture."""

import json
import subprocess
import sys

import pytest

from frskd_mm.lab.visualization.learning_curves import read_curves

METRIC = 'accuracy/top1'


def epoch(number, value):
    """Log of an epoch of 10 iterations; the value is that of loss and metric."""
    step = 10 * number
    return [
        dict(loss=value, epoch=number, iter=step, step=step),
        {METRIC: value, 'step': number},
    ]


def write_logs(work_dir, *logs):
    """Write the logs of a run and of its resumes."""
    for number, lines in enumerate(logs):
        folder = work_dir / f'20260101_{number}' / 'vis_data'
        folder.mkdir(parents=True)
        text = '\n'.join(map(json.dumps, lines))
        (folder / 'scalars.json').write_text(text)
    return str(work_dir)


@pytest.fixture
def plot(repo):
    """Run the tool."""
    command = [sys.executable, repo / 'tools/plot_runs.py']
    return lambda *arguments: subprocess.run(
        [*command, *arguments], cwd=repo, capture_output=True, text=True
    )


def test_a_resumed_run_counts_as_a_whole(plot, tmp_path):
    training, _ = epoch(4, 9.0)  # killed before its validation
    resumed = write_logs(
        tmp_path / 'a',
        [*epoch(1, 1.0), *epoch(2, 2.0)],
        [*epoch(2, 2.5), *epoch(3, 3.0)],
        [training],
    )
    curves = read_curves(resumed, METRIC)
    assert curves.iterations == [10, 20, 30, 40]
    assert curves.metrics == [1.0, 2.5, 3.0]
    whole = write_logs(tmp_path / 'b', [*epoch(1, 1.0), *epoch(2, 2.0), *epoch(3, 4.0)])
    out = tmp_path / 'curves.png'
    done = plot('--run', 'frskd', resumed, whole, '--out', str(out))
    assert done.stdout.splitlines() == ['frskd: 3.50 ± 0.71  (3.00, 4.00)', str(out)]
    assert out.stat().st_size > 10_000


def test_a_run_from_the_start_replaces_an_earlier_one(plot, tmp_path):
    earlier = [*epoch(1, 0.3), *epoch(2, 0.4)]
    work_dir = write_logs(tmp_path, earlier, [], epoch(1, 0.5))
    done = plot('--run', 'none', work_dir, '--scale', '100')
    assert done.stdout == 'none: 50.00  (50.00)\n'


def test_a_method_that_is_named_twice_has_the_runs_of_both(plot, tmp_path):
    first, second = (
        write_logs(tmp_path / str(value), epoch(1, value)) for value in (1.0, 2.0)
    )
    done = plot('--run', 'frskd', first, '--run', 'frskd', second)
    assert done.stdout == 'frskd: 1.50 ± 0.71  (1.00, 2.00)\n'


def test_a_cut_off_line_is_left_out(plot, tmp_path):
    """A killed run may end within one."""
    work_dir = write_logs(tmp_path, epoch(1, 1.0), [])
    (log,) = tmp_path.glob('*0/vis_data/scalars.json')
    log.write_text(log.read_text() + '\n{"loss": 2.0, "st')
    done = plot('--run', 'none', work_dir)
    assert done.stdout == 'none: 1.00  (1.00)\n', done.stderr


def test_a_folder_without_a_log_is_named(plot, tmp_path):
    done = plot('--run', 'none', str(tmp_path))
    assert done.returncode == 2
    assert f'plot_runs.py: error: {tmp_path} has no log of a training' in done.stderr
    assert 'Traceback' not in done.stderr
