"""Tables as text."""

from typing import Sequence

#: What would not be shown as it is in a cell.
ESCAPES = str.maketrans(
    {
        **{mark: f'\\{mark}' for mark in '\\`*|$'},
        **{'&': '&amp;', '<': '&lt;', '>': '&gt;', '\n': ' '},
    }
)


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of plain text, the header first, as a Markdown table.

    Example:
        >>> print(markdown_table([['method', 'n'], ['cs-kd', '10']]))
        | method | n  |
        |--------|----|
        | cs-kd  | 10 |
    """
    rows = [[cell.translate(ESCAPES) for cell in row] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*rows)]
    lines = [
        '| ' + ' | '.join(cell.ljust(width) for cell, width in zip(row, widths)) + ' |'
        for row in rows
    ]
    lines.insert(1, '|' + '|'.join('-' * (width + 2) for width in widths) + '|')
    return '\n'.join(lines)
