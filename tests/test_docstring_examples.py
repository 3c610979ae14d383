"""The examples in docstrings are run."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
MODULES = [
    '.'.join(path.relative_to(REPO).with_suffix('').parts)
    for path in sorted((REPO / 'frskd_mm').rglob('*.py'))
    if '>>> ' in path.read_text()
]
FLAGS = (
    doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
)


def test_examples_were_found():
    assert len(MODULES) >= 10


@pytest.mark.parametrize('name', MODULES)
def test_examples_give_what_they_say(name):
    module = import_module(name)
    result = doctest.testmod(module, optionflags=FLAGS)
    assert result.attempted
    assert result.failed == 0
