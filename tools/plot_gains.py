"""Show gains along a regime: ``python tools/plot_gains.py --at VALUE RESULTS ...``.

Takes the ``results.json`` of several comparisons that differ in one thing, such as
images a class or epochs.
"""

import argparse
from typing import Dict, List, Optional, Tuple

from frskd_mm.lab.compare.summary import Summary, difference_cell, read_results
from frskd_mm.lab.outputs import check_output
from frskd_mm.lab.statistics import Difference
from frskd_mm.lab.tables import markdown_table
from frskd_mm.lab.visualization.gains import draw_gains_along
from frskd_mm.utils.command import CommandParser, run_command


def main() -> None:
    """Print the differences as a table and draw them."""
    parser = CommandParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--at',
        nargs=2,
        action='append',
        required=True,
        metavar=('VALUE', 'RESULTS'),
        help='where a comparison stands, a number, and its results.json; repeat it',
    )
    parser.add_argument('--along', required=True, help='what the numbers are')
    parser.add_argument('--methods', help='names with commas between (default: all)')
    parser.add_argument('--metric', help='quality, as compare has it')
    parser.add_argument('--out', help='PNG to write')
    args = parser.parse_args()
    check_output('--out', args.out, picture=True)
    try:
        places = [(float(at), _summary(path, args.metric)) for at, path in args.at]
    except ValueError as error:
        parser.error(f'--at: {error}')
    places.sort(key=lambda place: place[0])
    qualities = {summary.quality for _, summary in places}
    if len(qualities) > 1:
        labels = ', '.join(sorted(quality.label for quality in qualities))
        parser.error(f'--at: the comparisons have different qualities: {labels}')
    values = [value for value, _ in places]
    if len(set(values)) < len(values):
        parser.error('--at: each comparison needs a number of its own')
    names = args.methods.split(',') if args.methods else _names(places)
    if not names:
        parser.error('--at: no comparison has a method beside the plain student')
    series: Dict[str, List[Tuple[float, Difference]]] = {
        name: [
            (value, summary.differences[name])
            for value, summary in places
            if name in summary.differences
        ]
        for name in names
    }
    missing = [name for name, points in series.items() if not points]
    if missing:
        parser.error(
            f'--methods: no comparison has {", ".join(missing)} beside the plain '
            f'student. They have: {", ".join(_names(places))}.'
        )
    (quality,) = qualities
    rows = [[args.along, *names]]
    for value, _ in places:
        found = {name: dict(points).get(value) for name, points in series.items()}
        cells = (difference_cell(found[name], quality) for name in names)
        rows.append([f'{value:g}', *cells])
    print(markdown_table(rows))
    if args.out:
        label = f'difference in {quality.label}'
        draw_gains_along(series, args.along, label, args.out)
        print(f'\n{args.out}')


def _summary(path: str, metric: Optional[str]) -> Summary:
    results = read_results(path)
    return Summary(results, list(results), metric)


def _names(places: List[Tuple[float, Summary]]) -> List[str]:
    found = (name for _, summary in places for name in summary.differences)
    return list(dict.fromkeys(found))


if __name__ == '__main__':
    run_command(main)
