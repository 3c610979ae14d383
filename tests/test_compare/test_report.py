"""The comparison's report: what it says of the numbers, and how it looks."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

from frskd_mm.evaluation.calibration import Predictions, expected_calibration_error
from frskd_mm.lab.compare.pages import Section, html_page, markdown_page
from frskd_mm.lab.compare.quality import find_quality
from frskd_mm.lab.compare.report import summary_sections
from frskd_mm.lab.compare.summary import Row, Summary
from frskd_mm.lab.statistics import paired_differences
from frskd_mm.lab.visualization.differences import COLOURS
from frskd_mm.lab.visualization.reliability import draw_reliability

REPO = Path(__file__).resolve().parents[2]
#: Runs of 23 methods with ten seeds each.
DIGITS = REPO / 'docs/comparisons/digits/results.json'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')


def results_of(accuracies, **changes):
    """Numbers of runs; the step of the k-th method costs k plain ones."""
    environment = dict(device='CPU')
    return {
        method: {
            seed: dict(
                metrics={'accuracy/top1': value},
                step_seconds=float(number),
                peak_memory_mb=100.0,
                parameters_training=20,
                parameters_inference=10,
                environment=environment,
                **changes,
            )
            for seed, value in enumerate(values)
        }
        for number, (method, values) in enumerate(accuracies.items(), start=1)
    }


def summary_of(**accuracies):
    results = results_of({k.replace('_', '-'): v for k, v in accuracies.items()})
    return Summary(results, list(results))


@pytest.fixture(scope='module')
def digits():
    results = {}
    for run in json.loads(DIGITS.read_text()):
        results.setdefault(run['method'], {})[run['seed']] = run
    return Summary(results, list(results))


@pytest.fixture(scope='module')
def page(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    sections = summary_sections(digits, digits.table(77818), str(folder))
    wide = summary_sections(digits, [], str(folder))[0]._replace(is_narrow=False)
    text = html_page('Title', digits.verdict(), [*sections, wide], str(folder))
    path = folder / 'report.html'
    path.write_text(text)
    return path


def test_the_corrected_intervals_are_bonferronis():
    generator = np.random.default_rng(0)
    values = {name: generator.normal(size=(2, 5)) for name in 'abc'}
    found = paired_differences({k: (v[0], v[1]) for k, v in values.items()})
    for name, (own, plain) in values.items():
        test = stats.ttest_rel(own, plain)
        for half, confidence in (
            (found[name].half, 0.95),
            (found[name].corrected, 1 - 0.05 / 3),
        ):
            low, high = test.confidence_interval(confidence)
            assert found[name].mean - half == pytest.approx(low)
            assert found[name].mean + half == pytest.approx(high)
        assert bool(found[name].sign) == (3 * test.pvalue < 0.05)


def test_one_pair_of_seeds_does_not_count_in_the_correction():
    pairs = {'a': ([2.0, 3.0, 4.5], [1.0, 1.0, 1.0]), 'b': ([1.0], [0.0])}
    found = paired_differences(pairs)
    assert found['a'].corrected == found['a'].half
    assert np.isnan(found['b'].corrected)
    assert (found['a'].sign, found['b'].sign) == (0, 0)


def test_seeds_that_differ_alike_have_no_interval():
    """Two accuracies on few images are often rounded to one difference."""
    plain = [0.3, 0.4]
    pairs = {
        'alike': ([0.1, 0.2], plain),  # but for the rounding of floats
        'other': ([0.5, 0.7], plain),
    }
    found = paired_differences(pairs)
    assert (found['alike'].sign, found['alike'].has_interval) == (0, False)
    assert found['other'].has_interval
    # It was tried nevertheless.
    assert found['other'].corrected > found['other'].half
    results = results_of({'none': [50.1, 50.3], 'a': [51.2, 51.4], 'b': [49.0, 50.0]})
    header, _, row, _ = Summary(results, list(results)).table(0)
    cells = dict(zip(header.cells, row.cells))
    assert cells['difference [95 % interval]'] == '+1.10 (n=2, all alike: no interval)'
    assert (cells['corrected for 2 methods'], row.sign) == ('–', 0)


def test_signs_are_of_the_corrected_interval():
    noise = [0.0, 0.1, -0.1, 0.05, -0.05]
    plain = [0.0] * 5
    pairs = {
        name: ([mean + x for x in noise], plain)
        for name, mean in (('up', 1.0), ('level', 0.1), ('down', -1.0))
    }
    # By itself the middle one leaves out 0.
    assert paired_differences({'level': pairs['level']})['level'].sign == 1
    assert [d.sign for d in paired_differences(pairs).values()] == [1, 0, -1]


@pytest.mark.parametrize(
    ('accuracies', 'sentence'),
    [
        (
            dict(none=[0, 0, 0], frskd=[9, 10, 11], dlb=[-5, -5, -5.1], sla=[0, 1, 2]),
            'After correction for 3 methods, frskd (+10.00 [+5.58, +14.42], ×2.00 the '
            'training time) is above the plain student; dlb (-5.03 [-5.29, -4.78], '
            '×3.00 the training time) is below the plain student; no other method is '
            'shown to differ from it.',
        ),
        (
            dict(none=[0, 1], frskd=[0, 2]),
            'By the 95 % interval, no method is shown to differ from the plain '
            'student, frskd (+0.50 [-5.85, +6.85], ×2.00 the training time) included.',
        ),
        (
            {'none': [0, 0], 'none@1.5': [1, 1.02], 'a': [3, 3.02]},
            'After correction for 2 methods, a (+3.01 [+2.76, +3.26], ×3.00 the '
            'training time) and none@1.5 (+1.01 [+0.76, +1.26], ×3.00 the training '
            'time) are above the plain student.',
        ),
        (
            dict(none=[0, 0], a=[3, 3.02], frskd=[1]),
            'By the 95 % interval, a (+3.01 [+2.88, +3.14], ×2.00 the training time) '
            'is above the plain student; no other method is shown to differ from it, '
            'frskd (+1.00 with one seed, ×3.00 the training time) included.',
        ),
        (
            dict(none=[50.1, 50.3], frskd=[51.2, 51.4]),
            'By the 95 % interval, no method is shown to differ from the plain '
            'student, frskd (+1.10 with every seed, ×2.00 the training time) included.',
        ),
        (
            dict(none=[0], frskd=[1]),
            'One pair of seeds shows no difference: at least two have to finish, of '
            '--seeds, better ten.',
        ),
        (
            dict(none=[0, 1]),
            'No method could be compared: of none has a run finished whose seed the '
            'plain student has, too, and in which both have the metric.',
        ),
        (
            dict(frskd=[0, 1]),
            'The plain student (none) is not among the methods that finished, so there '
            'is no difference to judge.',
        ),
    ],
)
def test_the_verdict_is_made_from_the_numbers(accuracies, sentence):
    results = results_of(accuracies)
    assert Summary(results, list(results)).verdict() == sentence


def test_costs_of_unlike_runs_are_not_compared():
    results = results_of(dict(none=[0, 0], frskd=[3, 3.02], dlb=[5, 5.02]))
    for method, seeds in results.items():
        for run in seeds.values():
            threads = 1 if method == 'frskd' else 2
            run['environment'] = dict(device='CPU', threads=threads)
    summary = Summary(results, list(results))
    assert (summary.time('frskd'), summary.cost('frskd')) == ('–', '–')
    assert summary.time('dlb') == '×3.00'
    assert 'frskd (+3.01 [+2.76, +3.26])' in summary.verdict()


def test_self_teachers_need_no_plain_student():
    results = results_of(dict(frskd=[0, 1]))
    for run in results['frskd'].values():
        run['self_teacher'] = {'accuracy/top1': 7.0, 'agreement': 0.5}
    header, row = Summary(results, list(results)).teachers()
    assert header.cells[3:] == [
        "self-teacher's top-1 accuracy (%)",
        'says what its student says (%)',
    ]
    assert row.cells == ['frskd', '2', '0.50 ± 0.71', '7.00 ± 0.00', '50.00 ± 0.00']


def test_rows_are_sorted_marked_and_failed_ones_last():
    results = results_of(
        dict(
            none=[0.0] * 5,
            broad=[-9.0, 9.0, 4.0, -4.0, 20.0],
            worse=[-3.0, -3.1, -3.0, -3.0, -3.0],
            frskd=[5.0, 5.1, 5.0, 5.0, 5.0],
        )
    )
    header, *rows = Summary(results, ['gone', *results]).table(parameters=10)
    assert [row.cells[0] for row in rows] == [
        *('none', 'frskd', 'broad', 'worse', 'gone')
    ]
    assert [row.sign for row in rows] == [0, 1, 0, -1, 0]
    assert [row.emphasised for row in rows] == [True, True, False, False, False]
    corrected = header.cells.index('corrected for 3 methods')
    assert [row.cells[corrected][-1] for row in rows] == ['–', '▲', ']', '▼', '–']
    # The cost stands beside the gain.
    assert header.cells[corrected + 1] == 'step time'
    assert rows[1].cells[corrected + 1] == '×4.00'


def test_the_picture_is_sorted_and_coloured_by_the_corrected_interval(
    digits, tmp_path, monkeypatch
):
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, *a, **b: figures.append(self) or save(self, *a, **b),
    )
    sections = summary_sections(digits, digits.table(0), str(tmp_path))
    assert [s.title for s in sections] == ['Gain and cost', 'Results', 'Pareto set']
    assert sections[0].picture == 'differences.png'
    (axes,) = figures[0].axes
    labels = axes.get_yticklabels()
    names = [label.get_text() for label in labels]
    means = [0.0 if name == 'none' else digits.differences[name].mean for name in names]
    assert sorted(means, reverse=True) == means
    assert len(names) == 23
    bold = [text.get_text() for text in labels if text.get_fontweight() == 'bold']
    assert bold == ['frskd', 'none']
    coloured = {
        line.get_ydata()[0]
        for line in axes.lines
        if line.get_color() in (COLOURS[1], COLOURS[-1])
    }
    assert coloured == {names.index('cs-kd')}
    (costs,) = axes.child_axes
    shown = [text.get_text() for text in costs.get_yticklabels()]
    assert shown == [digits.time(name) for name in names]


def test_the_reliability_diagram_has_the_ece_of_the_table(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, *a, **b: titles.extend(x.get_title() for x in self.axes),
    )
    # Too sure with one seed and not sure enough with the other: together calibrated.
    seeds = [
        Predictions(np.full(4, 0.5), np.array(correct), np.full(4, 0.5))
        for correct in ([0, 0, 0, 1], [1, 1, 1, 0])
    ]
    mean = np.mean([expected_calibration_error(seed) for seed in seeds])
    draw_reliability({'a': seeds}, str(tmp_path / 'a.png'))
    assert titles == [f'a: ECE {100 * mean:.1f} %'] == ['a: ECE 25.0 %']


def test_markdown_has_the_verdict_before_all_else():
    section = Section('A', rows=[Row(['method']), Row(['a|b'])])
    text = markdown_page('Title', 'a_b* wins', [section])
    assert text.startswith('# Title\n\n**a_b\\* wins**\n\n## A\n\n| method |')
    assert '| a\\|b ' in text


def test_names_are_escaped_in_the_verdict_and_table(tmp_path):
    summary = summary_of(none=[0, 0], **{'<b>x</b>': [1, 1.02]})
    table = summary.table(0)
    page = html_page('T', summary.verdict(), [Section('A', rows=table)], str(tmp_path))
    assert '<b>' not in page
    assert page.count('&lt;b&gt;') == 2


MEASURE = """
const frame = document.querySelector('iframe');
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const style = node => frame.contentWindow.getComputedStyle(node);
  const box = page.querySelector('table').parentElement;
  const rows = [...page.querySelectorAll('tr')].slice(1);
  const left = () => rows[5].cells[0].getBoundingClientRect().left;
  const before = left();
  box.scrollLeft = 150;
  const found = {
    pageWidth: root.scrollWidth,
    scrolled: box.scrollLeft,
    moved: left() - before,
    second: rows[5].cells[1].getBoundingClientRect().right - before,
    rowHeights: rows.map(row => row.offsetHeight),
    lineHeight: parseFloat(style(page.body).lineHeight),
    colours: rows.map(row => style(row.cells[0]).backgroundColor),
    weights: rows.map(row => style(row.cells[0]).fontWeight),
    pictures: [...page.querySelectorAll('img')].map(
      image => [image.offsetWidth, image.parentElement.clientWidth]),
  };
  document.body.textContent = JSON.stringify(found);
};
frame.srcdoc = document.querySelector('template').innerHTML;
"""


def look_at(page, width, folder):
    """Measure a page as a real browser lays it out on a screen of some width."""
    found = filter(None, map(shutil.which, BROWSERS))
    browser = next(found, None)
    if browser is None:
        pytest.skip('No browser: install chromium to see the report laid out.')
    wrapper = folder / f'{width}.html'
    wrapper.write_text(
        f'<iframe style="border:0;width:{width}px;height:900px"></iframe>'
        f'<template>{page.read_text()}</template><script>{MEASURE}</script>'
    )
    output = subprocess.run(
        [
            *(browser, '--headless', '--no-sandbox', '--disable-gpu'),
            *(f'--user-data-dir={folder / "profile"}', '--window-size=1500,1000'),
            *('--virtual-time-budget=20000', '--dump-dom', wrapper.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    body = re.search(r'<body>(\{.*\})</body>', output.stdout, re.DOTALL)
    assert body, (output.stdout[-500:], output.stderr[-2000:])
    return json.loads(html.unescape(body[1]))


def test_the_page_says_how_wide_it_is(page):
    text = page.read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in (
        text
    )


@pytest.mark.parametrize('width', [400, 1400])
def test_the_page_is_readable_on_a_screen_of(width, page, digits, tmp_path):
    found = look_at(page, width, tmp_path)
    assert found['pageWidth'] <= width, 'the page itself must not scroll sideways'
    assert found['scrolled'] > 0
    assert found['moved'] == 0, 'the names must stay when the table is scrolled'
    rows = digits.table(77818)[1:]
    assert len(found['rowHeights']) == len(rows) == 23
    # A name may take two lines.
    assert max(found['rowHeights']) < 4 * found['lineHeight']
    plain, narrow = 'rgb(255, 255, 255)', found['pictures'][0]
    for row, colour, weight in zip(rows, found['colours'], found['weights']):
        if not row.emphasised:
            assert (colour != plain) == bool(row.sign), row.cells
        assert (int(weight) >= 600) == row.emphasised, row.cells
    assert narrow[0] <= narrow[1]
    assert found['pictures'][1][0] >= 55 * 16  # scrolled in its own box


def test_the_time_is_that_of_the_steps_that_were_made():
    """Half of three epochs more are four, not four and a half."""
    results = results_of({'none': [50.0], 'none@1.5': [51.0]})
    for method, steps in (('none', 3), ('none@1.5', 4)):
        results[method][0].update(steps=steps, step_seconds=2.0)
    assert Summary(results, list(results)).time('none@1.5') == '×1.33'


def test_a_metric_of_which_less_is_better_is_refused():
    results = results_of({'none': [50.0], 'frskd': [51.0]})
    for seeds in results.values():
        seeds[0]['metrics'].update({'compare/NLL': 1.0, 'coco/segm_mAP': 0.3})
    with pytest.raises(ValueError, match='compare/NLL: of what counts, more must be'):
        Summary(results, list(results), 'compare/NLL')
    masks = Summary(results, list(results), 'coco/segm_mAP').quality
    assert (masks.label, masks.scale) == ('mask AP (%)', 100.0)


def test_a_metric_that_is_named_is_the_one_that_counts():
    names = ['accuracy/top1', 'coco/bbox_mAP', 'coco/bbox_mAP_75', 'f1']
    for name in ('f1', 'coco/bbox_mAP_75'):
        assert find_quality(names, name).metric == name
    assert find_quality(names, None).metric == 'accuracy/top1'
    with pytest.raises(ValueError, match='gave no nonsense. Name one of'):
        find_quality(names, 'nonsense')
