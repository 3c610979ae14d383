"""Docstrings as Markdown: what Griffe, which reads them for the site, does not know."""

import re
from typing import Any

from griffe import Extension, Object

MATH = re.compile(r'^\.\. math::\n((?:[ ]+.*\n?|\n)+)', re.MULTILINE)
ROLE = re.compile(r':\w+:`~?\.?([^`]+)`')
#: A line that names a paper or a source begins a line of its own.
ORIGIN = re.compile(r'\n(Paper|Papers|Source|Sources|Code): ')


def to_markdown(text: str) -> str:
    """Turn the reStructuredText of a docstring to Markdown."""
    text = MATH.sub(lambda match: f'```text\n{_dedent(match.group(1))}```\n', text)
    text = ROLE.sub(r'`\1`', text)
    return ORIGIN.sub(r'\n\n\1: ', text)


def _dedent(block: str) -> str:
    lines = [line.strip() for line in block.strip('\n').split('\n')]
    return '\n'.join(lines).strip() + '\n'


class Docstrings(Extension):
    """Turns every docstring that is read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Turn one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
