"""Gains along a regime, and against their cost."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from frskd_mm.lab.statistics import Difference, paired_interval
from frskd_mm.lab.visualization.gains import draw_gain_and_cost, pareto_set


def write(path, **accuracies):
    runs = [
        dict(method=name, seed=seed, metrics={'accuracy/top1': value}, step_seconds=1.0)
        for name, values in accuracies.items()
        for seed, value in enumerate(values)
    ]
    path.write_text(json.dumps(runs))
    return str(path)


@pytest.fixture
def plot(repo):
    """Run the tool."""
    command = [sys.executable, repo / 'tools/plot_gains.py']
    return lambda *arguments: subprocess.run(
        [*command, *arguments], capture_output=True, text=True
    )


def test_the_table_and_the_picture(plot, tmp_path):
    few = write(tmp_path / 'few.json', none=[10, 11], frskd=[12, 15], sla=[10, 12])
    many = write(tmp_path / 'many.json', none=[50], frskd=[49])
    out = tmp_path / 'gains.png'
    options = ['--at', '500', many, '--at', '20', few, '--along', 'images a class']
    done = plot(*options, '--out', str(out))
    assert done.returncode == 0, done.stderr
    header, _, first, second = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in done.stdout.splitlines()[:4]
    ]
    assert header == ['images a class', 'frskd', 'sla']
    mean, half = paired_interval([12, 15], [10, 11])
    cell = f'{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] (n=2)'
    assert first[:2] == ['20', cell]
    assert second == ['500', '-1.00 (n=1: no interval)', '–']
    assert out.read_bytes().startswith(b'\x89PNG')
    chosen = plot(*options, '--methods', 'sla')
    assert 'frskd' not in chosen.stdout


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--along', 'x', '--methods', 'byot'], 'no comparison has byot'),
        (['--along', 'x', '--at', 'many', 'results.json'], "could not .* 'many'"),
        ([], '--along'),
    ],
)
def test_wrong_use_is_named(plot, tmp_path, options, message):
    path = write(tmp_path / 'results.json', none=[1, 2], frskd=[2, 3])
    done = plot('--at', '1', path, *options)
    assert done.returncode == 2
    assert re.search(message, done.stderr)


def test_two_comparisons_at_one_place_are_refused(plot, tmp_path):
    path = write(tmp_path / 'results.json', none=[1, 2], frskd=[2, 3])
    done = plot('--at', '1', path, '--at', '1.0', path, '--along', 'x')
    assert done.returncode == 2
    assert 'a number of its own' in done.stderr


def test_what_cannot_be_drawn_together_is_refused(plot, tmp_path):
    path = write(tmp_path / 'results.json', none=[1, 2], frskd=[2, 3])
    dense = Path(path).read_text().replace('accuracy/top1', 'mIoU')
    other = tmp_path / 'dense.json'
    other.write_text(dense)
    done = plot('--at', '1', path, '--at', '2', str(other), '--along', 'x')
    assert done.returncode == 2
    assert 'different qualities: mIoU (%), top-1 accuracy (%)' in done.stderr
    alone = write(tmp_path / 'alone.json', none=[1, 2])
    done = plot('--at', '1', alone, '--along', 'x', '--out', str(tmp_path / 'x.png'))
    assert done.returncode == 2
    assert 'no comparison has a method' in done.stderr


def test_nothing_beats_the_pareto_set():
    points = {
        'none': (1.0, 0.0),
        'dear': (3.0, 2.0),
        'better': (1.4, 3.0),
        'equal': (1.4, 3.0),
        'worse': (1.2, -1.0),
        'best': (2.0, 4.0),
    }
    best = pareto_set(points)
    assert best == ['none', 'better', 'best']
    for name in best:
        cost, gain = points[name]
        assert not [p for p in points.values() if p[0] <= cost and p[1] > gain]


def test_gain_and_cost_are_where_they_should_be(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, *args, **kwargs: (drawn.append(self), save(self, *args, **kwargs)),
    )
    differences = {
        'frskd': Difference(2.0, 0.5, 1.0, 3),
        'sla': Difference(-1.0, 0.5, 1.5, 3),
    }
    costs = dict(none=1.0, frskd=1.5, sla=4.0)
    path = str(tmp_path / 'picture.png')
    draw_gain_and_cost(differences, costs, 'none', ['none'], 'difference', path)
    (axes,) = drawn[0].axes
    names = {text.get_text(): text.xy for text in axes.texts}
    assert names == {'none': (1.0, 0.0), 'frskd': (1.5, 2.0), 'sla': (4.0, -1.0)}
    _, pareto, *lines = axes.lines
    assert list(zip(*pareto.get_data())) == [(1.0, 0.0), (1.5, 2.0)]
    intervals = [
        tuple(y) for x, y in (line.get_data() for line in lines) if len(y) == 2
    ]
    assert intervals == [(1.5, 2.5), (-1.5, -0.5)]
