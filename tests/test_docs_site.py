"""What the documentation's site is made of, and figures that its pages compute."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import frskd_mm.registry as registries

REPO = Path(__file__).resolve().parents[1]
SITE = REPO / 'docs' / 'site'


def load(name):
    spec = importlib.util.spec_from_file_location(f'site_{name}', SITE / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def hooks():
    pytest.importorskip('mkdocs')
    return load('hooks')


def pages_of_the_nav(entries):
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, list):
            yield from pages_of_the_nav(value)
        else:
            yield value


def test_the_reference_has_every_registered_part(hooks):
    found = {(part.registry, part.name) for part in hooks.registered_parts(REPO)}
    registered = set()
    for name in registries.__all__:
        registry = getattr(registries, name)
        registry.import_from_location()
        registered |= {(name, part) for part in registry.module_dict}
    assert found == registered
    assert len(found) > 60


def test_every_page_of_the_reference_is_in_the_nav(hooks):
    nav = yaml.safe_load((REPO / 'mkdocs.yml').read_text())['nav']
    listed = [page for page in pages_of_the_nav(nav) if page.startswith('reference/')]
    pages = hooks.reference_pages(REPO)
    assert sorted(listed) == sorted(f'reference/{name}.md' for name in pages)
    assert sum(len(parts) for _, parts in pages.values()) > 60


def test_a_part_without_a_page_is_refused(hooks, tmp_path):
    package = tmp_path / 'frskd_mm'
    package.mkdir()
    (package / 'new.py').write_text('@LOOPS.register_module()\nclass Loop:\n    pass\n')
    with pytest.raises(ValueError, match=r'frskd_mm\.new\.Loop has no page.*LOOPS'):
        hooks.reference_pages(tmp_path)


def test_links_to_files_outside_of_docs_are_turned(hooks):
    class Of:
        src_uri = 'methods/adding.md'
        dest_uri = 'methods/adding/index.html'

    class Page:
        file = Of

    text = (
        '[a](../compare.md#x) [b](../../tests/toys.py) [c](https://x.y/z) [d](#here)\n'
        '```python\nx[0](y)\n```\n![e](../../README.md) <img src="../x.png">'
    )
    assert hooks.on_page_markdown(text, Page, None, None) == (
        '[a](../compare.md#x) [b](../repository/tests/toys.py) [c](https://x.y/z) '
        '[d](#here)\n```python\nx[0](y)\n```\n![e](../index.md) <img src="../../x.png">'
    )


def test_docstrings_become_markdown():
    pytest.importorskip('griffe')
    docstrings = load('docstrings')
    text = (
        'Do.\n\n.. math::\n    a = b\n        + c\n\nSee :class:`.Other`.\nPaper: x\n'
    )
    assert docstrings.to_markdown(text) == (
        'Do.\n\n```text\na = b\n+ c\n```\nSee `Other`.\n\nPaper: x\n'
    )


#: Where the numbers of each regime of the corrected table lie.
NUMBERS = {
    'digits': 'comparisons/digits',
    'CIFAR-100': 'comparisons/cifar100',
    'fine-tuning': 'results/finetune-50',
    'segmentation': 'results/digit-scenes-segmentation-tuned',
}


def differences(data):
    """Return each method's differences to the plain student, seed by seed."""
    runs = json.loads((REPO / 'docs' / NUMBERS[data] / 'results.json').read_text())
    metric = 'mIoU' if data == 'segmentation' else 'accuracy/top1'
    by_method = {}
    for run in runs:
        by_method.setdefault(run['method'], {})[run['seed']] = run['metrics'][metric]
    plain = by_method.pop('none')
    return {
        method: np.array([seeds[seed] - plain[seed] for seed in sorted(seeds)])
        for method, seeds in by_method.items()
        if len(seeds) > 1  # one has no interval to correct
    }


def test_the_corrected_table_is_that_of_the_results():
    stats = pytest.importorskip('scipy.stats')
    text = (REPO / 'docs/will_it_help.md').read_text()
    data = '|'.join(NUMBERS)
    rows = re.findall(
        rf'^\| ({data}) \| `(\S+)` \| (\S+) \| (\S+) \| (\S+) \| (.+?) \|$',
        text,
        re.MULTILINE,
    )
    assert {row[0] for row in rows} == set(NUMBERS)
    for data, method, difference, p, corrected, interval in rows:
        found = differences(data)
        number, values = len(found), found[method]
        value = stats.ttest_1samp(values, 0).pvalue
        half = stats.t.ppf(1 - 0.025 / number, len(values) - 1) * stats.sem(values)
        mean = values.mean()
        assert difference == f'{mean:+.2f}'
        for shown, exact in ((p, value), (corrected, min(1, value * number))):
            assert shown == (f'{exact:.3f}' if exact >= 0.001 else '<0.001')
        assert interval == f'[{mean - half:+.1f}, {mean + half:+.1f}]'
