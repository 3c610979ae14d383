"""The README in Chinese says what the one in English says."""

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = (
    (REPO / name).read_text(encoding='utf-8')
    for name in ('README.md', 'README_zh-CN.md')
)
NUMBER = re.compile(r'(?<![\w.])[+-]?\d+(?:\.\d+)*')


def sections(text):
    """Return the text before the first heading, and each section's."""
    return re.split(r'^## .*$', text, flags=re.MULTILINE)


def numbers(text):
    """Return a text's figures, sorted; not those of code and of links' targets."""
    text = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    text = re.sub(r'`[^`]*`|\]\([^)]*\)|<[^>]*>', '', text)
    return sorted(NUMBER.findall(text))


def links(text):
    return sorted(
        set(re.findall(r'(?:\]\(|src=")([^)"]+)', text))
        - {'README.md', 'README_zh-CN.md'}
    )


def code(text):
    """Return the lines of all blocks without their comments."""
    blocks = re.findall(r'```\w+\n(.*?)```', text, re.DOTALL)
    lines = [line.split('#')[0].rstrip() for b in blocks for line in b.splitlines()]
    return [line for line in lines if line]


def test_they_have_the_same_sections():
    assert len(sections(ENGLISH)) == len(sections(CHINESE)) >= 5


@pytest.mark.parametrize('place', range(len(sections(ENGLISH))))
def test_their_figures_are_equal(place):
    english, chinese = sections(ENGLISH)[place], sections(CHINESE)[place]
    if '`.venv`' in english:  # the Chinese one links the page on the installation
        english, chinese = (
            '\n'.join(re.findall(r'^\|.*', text, re.MULTILINE))
            for text in (english, chinese)
        )
    assert numbers(english) == numbers(chinese)


def test_the_first_screen_and_the_results_have_figures():
    assert len(numbers(sections(CHINESE)[0])) >= 10
    assert sum(len(numbers(section)) for section in sections(CHINESE)) >= 60


def test_they_link_the_same():
    assert set(links(CHINESE)) <= set(links(ENGLISH))
    assert len(set(links(ENGLISH)) - set(links(CHINESE))) <= 2


def test_they_print_the_same_code():
    assert set(code(CHINESE)) <= set(code(ENGLISH))
    assert len(code(CHINESE)) >= 20


def test_the_first_example_is_shorter_than_ten_lines():
    (example,) = re.findall(r'```python\n(.*?)```', sections(ENGLISH)[0], re.DOTALL)
    assert len(example.strip().splitlines()) < 10
