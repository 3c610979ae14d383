"""Try upstream models: ``python tools/check_models.py``.

Every config of tools/upstream_models.yml is tried as it is, without pretrained
weights, for one training step on random images, in a process of its own. What came
out is kept in one record a config, so that a run goes on where it stopped, and written
to docs/models.md once all configs have one.
"""

import os.path as osp
from argparse import Namespace

from frskd_mm.lab.model_check.apart import (
    check_apart,
    nightly,
    preload,
    read_entries,
    read_record,
    select,
    write_record,
)
from frskd_mm.lab.model_check.table import table_row, write_table
from frskd_mm.utils.command import CommandParser, run_command

ROOT = osp.dirname(osp.dirname(osp.abspath(__file__)))
LIST = osp.join(ROOT, 'tools', 'upstream_models.yml')
TABLE = osp.join(ROOT, 'docs', 'models.md')
RECORDS = osp.join(ROOT, 'work_dirs', 'check_models')


def parse_args() -> Namespace:
    """Define the command line."""
    parser = CommandParser(description=__doc__)
    parser.add_argument('--method', default='frskd', help='method to wrap with')
    parser.add_argument('--list', default=LIST, help='configs to try, a YAML file')
    parser.add_argument(
        '--only', nargs='+', default=[], help='libraries, groups, families or configs'
    )
    parser.add_argument('--nightly', action='store_true', help='one of each group')
    parser.add_argument('--shard', default='1/1', help='try the I-th of N parts: I/N')
    parser.add_argument(
        '--again', action='store_true', help='try also what has a record already'
    )
    parser.add_argument('--records', default=RECORDS, help='folder of the records')
    parser.add_argument('--table', default=TABLE, help='page to write')
    parser.add_argument(
        '--unfinished', action='store_true', help='write it even if records are missing'
    )
    parser.add_argument(
        '--timeout', type=float, default=600, help='seconds that a model may take'
    )
    parser.add_argument(
        '--memory', type=float, default=12, help='GiB that a model may take'
    )
    return parser.parse_args()


def main() -> None:
    """Try what has no record yet, and write the table if nothing is missing."""
    args = parse_args()
    entries = read_entries(args.list)
    listed = nightly(entries) if args.nightly else entries
    chosen = select(listed, args.only, args.shard)
    folder = osp.join(args.records, args.method)
    missing = [e for e in chosen if args.again or not read_record(folder, e)]
    preload({entry.library for entry in missing})
    for number, entry in enumerate(missing, 1):
        record = check_apart(entry, args.method, folder, args.timeout, args.memory)
        write_record(folder, entry, record)
        seconds = f'{record["seconds"]:.0f} s'
        print(
            f'{number}/{len(missing)} {seconds} {table_row(entry, record)}', flush=True
        )
    rows = [(entry, read_record(folder, entry)) for entry in entries]
    untried = [entry.family for entry, record in rows if not record]
    if untried and not args.unfinished:
        print(f'{len(untried)} have no record yet, so {args.table} is not written.')
    else:
        write_table(args.table, rows, args.method)


if __name__ == '__main__':
    run_command(main)
