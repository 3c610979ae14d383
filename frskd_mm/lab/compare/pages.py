"""A report's sections as Markdown and as a page."""

import base64
import html
import os.path as osp
import re
from typing import List, NamedTuple, Sequence

from frskd_mm.lab.tables import ESCAPES, markdown_table

from .summary import Row


class Section(NamedTuple):
    """A part of the report."""

    title: str
    text: str = ''
    #: The header first.
    rows: Sequence[Row] = ()
    #: File in the report's folder.
    picture: str = ''
    #: Whether the picture is as narrow as a phone's screen; others are scrolled there.
    is_narrow: bool = False
    #: Shown as it is.
    code: str = ''


def markdown_page(title: str, verdict: str, sections: Sequence[Section]) -> str:
    """Return the report as Markdown, pictures as links."""
    parts = [f'# {title}', f'**{verdict.translate(ESCAPES)}**']
    for section in sections:
        parts.append(f'## {section.title}')
        if section.rows:
            parts.append(markdown_table([row.cells for row in section.rows]))
        if section.text:
            parts.append(html.escape(section.text, quote=False))
        if section.picture:
            parts.append(f'![{section.title}]({section.picture})')
        if section.code:
            # Longer than what the code may hold itself.
            runs = re.findall('`+', section.code)
            fence = '`' * max(3, 1 + max(map(len, runs), default=0))
            parts.append(f'{fence}\n{section.code.rstrip()}\n{fence}')
    return '\n\n'.join(parts) + '\n'


STYLE = """
body { font-family: sans-serif; line-height: 1.45; margin: 0 auto; max-width: 80em;
  padding: 1em; }
h1 { font-size: 1.5em; }
.verdict { border-left: .3em solid #335c8a; font-size: 1.15em; padding-left: .8em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { background: #fff; border-bottom: 1px solid #ccc; padding: .35em .7em;
  text-align: left; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { border-right: 1px solid #ccc; left: 0;
  max-width: 12em; min-width: 6em; overflow-wrap: break-word; position: sticky;
  white-space: normal; z-index: 1; }
tr.emphasised td { background: #eceff3; font-weight: bold; }
tr.ahead td { background: #d9f0e0; }
tr.behind td { background: #f8ddd8; }
img { display: block; }
img.narrow { max-width: min(100%, 40em); }
.scroll img { max-width: 100%; min-width: 55em; }
pre { background: #f4f4f4; overflow-x: auto; padding: 1em; }
"""
#: Class of a row, by the sign of its difference.
CLASSES = {1: 'ahead', -1: 'behind'}


def html_page(
    title: str, verdict: str, sections: Sequence[Section], folder: str
) -> str:
    """Return a page that needs no other file, for screens of any width.

    Args:
        title: Heading.
        verdict: The sentence below it.
        sections: Parts; their pictures are embedded.
        folder: Where the pictures are.
    """
    parts = [f'<h1>{html.escape(title)}</h1>']
    parts.append(f'<p class="verdict">{html.escape(verdict)}</p>')
    for section in sections:
        parts.append(f'<h2>{html.escape(section.title)}</h2>')
        if section.rows:
            parts.append(_table(section.rows))
        if section.text:
            parts.append(f'<p>{html.escape(section.text)}</p>')
        if section.picture:
            parts.append(_picture(section, folder))
        if section.code:
            parts.append(f'<pre>{html.escape(section.code)}</pre>')
    body = '\n'.join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{body}\n</body>\n</html>\n'
    )


def _picture(section: Section, folder: str) -> str:
    with open(osp.join(folder, section.picture), 'rb') as file:
        data = base64.b64encode(file.read()).decode('ascii')
    source = f'src="data:image/png;base64,{data}"'
    image = f'<img alt="{html.escape(section.title)}" {source}>'
    if section.is_narrow:
        return image.replace('<img', '<img class="narrow"', 1)
    return f'<div class="scroll">{image}</div>'


def _table(rows: Sequence[Row]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = 'td' if number else 'th'
        cells = ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row.cells)
        names = [name for name in _classes(row) if name]
        classes = f' class="{" ".join(names)}"' if names else ''
        lines.append(f'<tr{classes}>{cells}</tr>')
    return '<div class="scroll"><table>\n' + '\n'.join(lines) + '\n</table></div>'


def _classes(row: Row) -> List[str]:
    return ['emphasised' if row.emphasised else '', CLASSES.get(row.sign, '')]
