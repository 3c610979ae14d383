"""What checks of models have shown, as a page of the documentation."""

from datetime import date
from importlib.metadata import version
from itertools import groupby
from typing import Any, Dict, List, Sequence, Tuple

from frskd_mm.utils.environment import package_family

from .apart import Entry
from .check import OUTCOMES, REFUSED, UNCLEAR, share_of_working
from .step import DENSE_SIZES, IMAGE_SIZES

Rows = Sequence[Tuple[Entry, Dict[str, Any]]]

INTRODUCTION = """\
# Upstream models

What `python tools/train.py CONFIG --method {method}` makes of the host libraries' own
configs. Each is tried as it is: nothing of the student is set. Of each, without
pretrained weights and on two random images, it is checked that

* the plain model trains a step, forward and backward;
* the distilled model has the plain model's parameters, with its initial weights for the
  same seed, and its task loss in the first step;
* every term is finite, and those of the method are greater than 0;
* the self-teacher's own loss trains the self-teacher alone, and the method's terms the
  student alone, the feature term among others the part that the maps are from;
* after a step of SGD, the exported student fits the plain model by every name and
  shape, and that then predicts exactly what the distilled one does; where that is
  nothing, their raw outputs or feature maps are compared.

This shows that a model trains, not what it gains. For the machine's sake, images are
small, of 64 pixels (classifiers) or 128 (others) unless the plain model needs others,
detectors keep 50 and sample 16 regions an image, and batches are not padded further.
Where a layer's weights all start at zero, as in some heads, they are drawn at random,
once the initial weights are compared.

Written by `python tools/check_models.py --method {method}` on {date} on a CPU with
{versions}.
"""

NOTES = """\
## Good to know

* Settings go behind the command as written in the table. Those under `model.distiller`
  belong to the method. Others are needed by the plain model, too, which cannot train as
  its config stands.
* The student is the plain model: its parameters, initial weights and outputs stay as
  its config says. Where its backbone returns several maps, these are refined. Where
  it returns one, tokens or a vector, stages are recorded as they run: of each map size
  the deepest, the coarsest four; of plain transformers four layers at even distances.
  What was chosen is printed, and `model.distiller.stages` chooses others, by the names
  of modules or indices of those that are printed.
* A head whose channels cannot be set to the refined maps' gets a 1x1 convolution before
  it in the self-teacher.
* The learning-rate constructors of the hosts that decay by layer give everything
  under `distiller.` the rate of a head. `paramwise_cfg.custom_keys` match parts of
  names, so `head` of SegFormer's recipe (rate times 10) also holds for the twin's
  head, while the refining neck has the base rate; `self_teacher.neck` is a key for it.
"""

#: What is no outcome yet.
UNTRIED = 'not tried yet'
#: How the table and the summary name the outcomes.
VERDICTS = dict(
    zip(OUTCOMES, ('yes', 'with a setting', 'refused', 'no', 'cut off', 'plain: no')),
    **{UNTRIED: UNTRIED},
)
COUNTED = dict(
    zip(
        OUTCOMES,
        (
            'work as they are',
            'work with a setting of the method',
            'are refused when the model is built',
            'fail otherwise',
            'were cut off for want of time or memory',
            'have a plain model that does not train here',
        ),
    )
)


def write_table(path: str, rows: Rows, method: str) -> None:
    """Write the page.

    Args:
        path: File to write.
        rows: Entries with their records, in the order of the list. Those without one
            are called untried.
        method: The method that was used.
    """
    records = [record for _, record in rows if record]
    untried = len(rows) - len(records)
    more = f' {untried} more of the list are not tried yet.' if untried else ''
    lines = [
        INTRODUCTION.format(method=method, date=date.today(), versions=_versions(rows)),
        summary(records) + more,
        '',
        NOTES,
    ]
    for library, of_library in groupby(rows, key=lambda row: row[0].library):
        lines.append(f'## {library}\n')
        for group, of_group in groupby(of_library, key=lambda row: row[0].group):
            lines += [f'### {group}\n']
            lines += ['| Family | Config | Works | Student | Distiller | Remarks |']
            lines += ['|---|---|---|---|---|---|']
            lines += [table_row(entry, record) for entry, record in of_group]
            lines.append('')
    with open(path, 'w', encoding='utf-8') as file:
        file.write('\n'.join(lines).rstrip('\n') + '\n')


def summary(records: Sequence[Dict[str, Any]]) -> str:
    """Return what became of all configs that were tried, in sentences.

    Args:
        records: One of each.
    """
    outcomes = [record['outcome'] for record in records]
    counts = ', '.join(f'{outcomes.count(kind)} {COUNTED[kind]}' for kind in OUTCOMES)
    tried = sum('plain_error' not in record for record in records)
    return (
        f'Of {len(records)} configs: {counts}. Of the {tried} whose plain model '
        f'trains here, {share_of_working(records):.1%} work as they are, and '
        f'{outcomes.count(UNCLEAR)} fail otherwise than by a clear refusal when the '
        'model is built. Parameters are in millions: of the student, and those that '
        'train beside it and are gone when it is deployed.'
    )


def table_row(entry: Entry, record: Dict[str, Any]) -> str:
    """Return a line of a table; the record is empty if there is none."""
    if not record:
        record = dict(outcome=UNTRIED, error='')
    works = record['outcome'] in OUTCOMES[:2]
    cells = (
        entry.family,
        entry.path.replace('::', '::<br>'),
        VERDICTS[record['outcome']],
        _millions(record['student']) if works else '',
        _millions(record['distiller']) if works else '',
        ' '.join(_remarks(entry, record)),
    )
    return f'| {" | ".join(cells)} |'


def _remarks(entry: Entry, record: Dict[str, Any]) -> List[str]:
    remarks = []
    if entry.needs:
        remarks.append(f'Both models with {_as_options(entry.needs)}.')
    if record.get('setting'):
        remarks.append(f'With {_as_options(record["setting"])}; without:')
    if record['error']:
        remarks.append(record['error'].replace('|', '\\|').replace('<', '&lt;'))
    if record['outcome'] == REFUSED and 'plain_error' in record:
        remarks.append('The plain model does not train on random batches either.')
    if record['outcome'] not in OUTCOMES[:2]:
        return remarks
    if record['image_size'] != IMAGE_SIZES.get(entry.library, DENSE_SIZES)[0]:
        remarks.append(f'Images of {record["image_size"]} pixels.')
    if record['unused']:
        remarks.append(
            f'{len(record["unused"])} parameters get no gradient, as '
            f'`{record["unused"][0]}`: set `find_unused_parameters=True` for several '
            'processes.'
        )
    if record['unused_plain']:
        remarks.append(
            f'{len(record["unused_plain"])} parameters get no gradient in the plain '
            'model either.'
        )
    return remarks


def _as_options(options: Dict[str, Any]) -> str:
    settings = ' '.join(f'{key}={value}' for key, value in options.items())
    return f'`--cfg-options {settings}`'


def _millions(number: int) -> str:
    return f'{number / 1e6:.1f}'


def _versions(rows: Rows) -> str:
    packages = package_family()
    libraries = filter(None, dict.fromkeys(entry.library for entry, _ in rows))
    return ', '.join(
        f'{packages[name][0]} {version(packages[name][0])}'
        for name in ('torch', 'mmengine', 'mmcv', *libraries)
    )
