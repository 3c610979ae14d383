"""The figures that README and the reports state are those of committed numbers."""

import json
import re
from itertools import chain
from pathlib import Path

import pytest

from frskd_mm.lab.compare.summary import Summary
from frskd_mm.lab.statistics import mean_std, paired_differences
from frskd_mm.lab.tables import markdown_table

REPO = Path(__file__).resolve().parents[1]
READMES = sorted(REPO.glob('README*.md'))
NUMBERS = [
    path
    for path in sorted(REPO.glob('docs/**/results.json'))
    if 'tuning' not in str(path)
]
REPORTS = [path for path in NUMBERS if (path.parent / 'report.md').exists()]
MEAN = re.compile(r'(\d+(?:\.(\d+))?) ± \d+\.\d+')
RECOMMENDED = ('frskd-f-attached', 'frskd-attached', 'frskd-strong')
INTERVAL = re.compile(r'([+-]\d+\.(\d+))\s+\[([+-]\d+\.\d+),\s+([+-]\d+\.\d+)\]')


def read(path):
    results = {}
    for run in json.loads(path.read_text()):
        results.setdefault(run['method'], {})[run['seed']] = run
    return Summary(results, list(results))


def figures_of(text):
    """Rows of a page's tables that state a mean with its deviation."""
    return [
        [cell.strip() for cell in line.strip().strip('|').split('|')]
        for line in text.splitlines()
        if line.startswith('|') and MEAN.search(line)
    ]


def method_of(cell):
    """Which method a cell of FRSKD's column is of."""
    for name in ('frskd-strong', 'frskd-f-attached'):
        if name in cell:
            return name
    return 'frskd-attached' if 'attached' in cell or '不截断' in cell else 'frskd'


ROWS = [(path.name, row) for path in READMES for row in figures_of(path.read_text())]


def test_there_are_figures_and_numbers():
    assert len(ROWS) >= 3
    assert len(REPORTS) >= 3


@pytest.mark.parametrize(('page', 'row'), ROWS, ids=[f'{p}: {r[0]}' for p, r in ROWS])
def test_rows_of_the_readme_are_made_from_the_numbers_they_link(page, row):
    links = re.findall(r'\(([^()]*results\.json)\)', '|'.join(row))
    assert len(links) == 1, f'{page} must link the numbers of: {row[0]}'
    summary = read(REPO / links[0])
    cells = [cell for cell in row if MEAN.search(cell)]
    assert len(cells) == 2, 'the plain student and FRSKD'
    for cell, method in zip(cells, ('none', method_of(cells[1]))):
        seeds = summary.results[method]
        quality = summary.quality
        values = [
            quality.scale * run['metrics'][quality.metric] for run in seeds.values()
        ]
        found = MEAN.search(cell)
        assert found[0] == mean_std(values, len(found[2] or ''))
        assert str(len(seeds)) in row


def against(path, method):
    """A method's differences to each of the others, not to the plain student alone."""
    summary = read(path)
    quality = summary.quality
    values = {
        name: {
            seed: quality.scale * run['metrics'][quality.metric]
            for seed, run in seeds.items()
        }
        for name, seeds in summary.results.items()
    }
    own = values.pop(method, {})
    return paired_differences(
        {
            name: ([own[seed] for seed in seeds], [*seeds.values()])
            for name, seeds in values.items()
            if seeds.keys() <= own.keys()
        }
    )


def intervals():
    """Every difference with its intervals in the numbers, rounded to their digits."""
    found = set()
    for path in NUMBERS:
        rivals = [against(path, method) for method in RECOMMENDED]
        differences = [read(path).differences, *rivals]
        for difference in chain.from_iterable(d.values() for d in differences):
            for half in (difference.half, difference.corrected):
                for digits in (1, 2):
                    ends = (
                        difference.mean,
                        difference.mean - half,
                        difference.mean + half,
                    )
                    found.add(tuple(f'{end:+.{digits}f}' for end in ends))
    return found


@pytest.mark.parametrize('page', READMES, ids=lambda path: path.name)
def test_intervals_in_the_readme_are_those_of_the_numbers(page):
    known = intervals()
    for mean, _, low, high in INTERVAL.findall(page.read_text()):
        assert (mean, low, high) in known


def test_rivals_in_the_results_are_those_of_the_numbers():
    page = (REPO / 'docs/results/fine_tuning.md').read_text()
    rows = page.split('| against |')[1].split('\n\n')[0]
    found = against(REPO / 'docs/results/finetune-50/results.json', 'frskd-f-attached')
    names = {'CE': 'none', '`ce@1.5`': 'none@1.5'}
    stated = {}
    for row in rows.splitlines()[2:]:
        name, alone, corrected = (cell.strip() for cell in row.strip('|').split('|'))
        name = name.split(',')[0]
        stated[names.get(name, name.strip('`'))] = f'{alone} {corrected}'
    assert stated == {
        name: ' '.join(
            (
                f'{d.mean:+.2f} [{d.mean - d.half:+.2f}, {d.mean + d.half:+.2f}]',
                f'[{d.mean - d.corrected:+.2f}, {d.mean + d.corrected:+.2f}]',
            )
        )
        for name, d in found.items()
        if d.n > 1
    }


@pytest.mark.parametrize('path', REPORTS, ids=lambda path: path.parent.name)
def test_reports_are_made_from_the_numbers_beside_them(path):
    summary = read(path)
    report = (path.parent / 'report.md').read_text()
    parameters = summary.results['none'][0]['parameters_inference']
    table = markdown_table([row.cells for row in summary.table(parameters)])
    assert table in report
    assert summary.verdict().replace('|', '\\|') in report
    assert (path.parent / 'differences.png').stat().st_size > 10_000
