"""The comparison's table, pictures and reports."""

import base64
import html
import json
import os.path as osp
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from mmengine.config import Config

from frskd_mm.engine.methods import PLAIN
from frskd_mm.evaluation.calibration import Predictions
from frskd_mm.lab.statistics import mean_std, paired_interval
from frskd_mm.lab.tables import markdown_table
from frskd_mm.lab.visualization.learning_curves import draw_learning_curves, read_curves
from frskd_mm.lab.visualization.reliability import draw_reliability
from frskd_mm.utils.model import build_model, count_parameters

from .grid import RECIPE, Run
from .quality import CALIBRATION, Column, find_quality
from .run import PREDICTIONS, RESULT, SCALARS

#: Shown beside it where they are there.
OTHERS = (
    Column('coco/bbox_mAP_50', 'box AP50 (%)', 100.0),
    Column('coco/segm_mAP', 'mask AP (%)', 100.0),
    Column(f'{CALIBRATION}/NLL', 'NLL', digits=3),
    Column(f'{CALIBRATION}/ECE', 'ECE (%)', 100.0),
    Column(f'{CALIBRATION}/AURC', 'AURC (‰)', 1000.0, digits=1),
)
CURVES, RELIABILITY = 'learning_curves.png', 'reliability.png'

LEGEND = (
    'Mean ± standard deviation over n seeds, of the weights after the last iteration; '
    'no epoch is picked by the test set. Difference: to the plain student (`none`) of '
    "the same seed, with the 95 % interval of Student's t for n paired seeds. ECE: 15 "
    'bins. Step time: median time of a training step. Memory: peak of the process, '
    'or of tensors on a GPU. Both relative to the plain student of the same seed. '
    "Added parameters: beside the plain student's, while training (without a frozen "
    'pretrained teacher) and in the exported student. –: the evaluator gave none for '
    'some seed, as for a detector without detections.'
)


class Section(NamedTuple):
    """A part of the report."""

    title: str
    text: str = ''
    rows: Sequence[Sequence[str]] = ()
    #: File in the report's folder.
    picture: str = ''
    #: Shown as it is.
    code: str = ''


def write_report(
    runs: Sequence[Run], out: str, command: str, metric: Optional[str] = None
) -> str:
    """Write what the finished runs gave: ``report.md``, ``report.html``.

    Also writes the pictures and ``results.json``, the numbers of each run.

    Args:
        runs: The whole grid; some may have failed.
        out: The grid's folder.
        command: What the user typed.
        metric: Name of the quality, as the evaluator gives it; found out for
            the hosts' usual ones.

    Returns:
        str: The table as Markdown.

    Raises:
        ValueError: If no run has finished, or the metric is unknown.
    """
    results = {run: _read_result(run) for run in runs if run.finished}
    if not results:
        raise ValueError(f'No run of {out} has finished, so there is no report.')
    quality = find_quality(_metric_names(results), metric)
    table = _table(runs, results, quality, _plain_parameters(out))
    sections = [Section('Results', text=LEGEND, rows=table)]
    failed = [run for run in runs if not run.finished]
    if failed:
        sections.append(
            Section(
                'Failed runs',
                text=f'{len(failed)} of {len(runs)} runs failed and are not in the '
                'table. The same command tries them again.',
                code='\n\n'.join(
                    f'{run.method}, seed {run.seed}:\n{run.last_log_lines()}'
                    for run in failed
                ),
            )
        )
    sections += _pictures(results, quality, out)
    sections += [
        Section('Command', code=command),
        Section('Machine', rows=_environments(results)),
        Section('Recipe of the plain student', code=_read_text(osp.join(out, RECIPE))),
    ]
    title = f'{len(_by_method(results))} methods, one recipe'
    _write_text(osp.join(out, 'report.md'), _markdown(title, sections))
    _write_text(osp.join(out, 'report.html'), _html(title, sections, out))
    numbers = [
        dict(method=run.method, seed=run.seed, **result)
        for run, result in results.items()
    ]
    _write_text(osp.join(out, 'results.json'), json.dumps(numbers, indent=2) + '\n')
    return markdown_table(table)


def _read_result(run: Run) -> Dict[str, Any]:
    return json.loads(_read_text(osp.join(run.folder, RESULT)))


def _read_text(path: str) -> str:
    with open(path, encoding='utf-8') as file:
        return file.read()


def _write_text(path: str, text: str) -> None:
    with open(path, 'w', encoding='utf-8') as file:
        file.write(text)


def _plain_parameters(out: str) -> int:
    return count_parameters(build_model(Config.fromfile(osp.join(out, RECIPE))))


def _by_method(results: Dict[Run, dict]) -> Dict[str, Dict[int, dict]]:
    methods: Dict[str, Dict[int, dict]] = {}
    for run, result in results.items():
        methods.setdefault(run.method, {})[run.seed] = result
    return methods


def _metric_names(results: Dict[Run, dict]) -> Set[str]:
    return {name for result in results.values() for name in result['metrics']}


def _table(
    runs: Sequence[Run], results: Dict[Run, dict], quality: Column, parameters: int
) -> List[List[str]]:
    """Return the header and a row for each method."""
    by_method = _by_method(results)
    names = _metric_names(results)
    others = [column for column in OTHERS if column.metric in names]
    header = ['method', 'n', quality.label, 'difference [95 % interval]']
    header += [column.label for column in others]
    header += ['step time', 'memory', 'added in training', 'added in use']
    baseline = by_method.get(PLAIN, {})
    rows = [header]
    for method in dict.fromkeys(run.method for run in runs):
        seeds = by_method.get(method, {})
        if not seeds:
            rows.append([method, '0', 'failed', *['–'] * (len(header) - 3)])
            continue
        pairs = [(seeds[s], baseline[s]) for s in seeds if s in baseline]
        is_plain = method == PLAIN
        row = [method, str(len(seeds)), _mean_of(seeds, quality)]
        row.append('–' if is_plain else _difference(pairs, quality))
        row += [_mean_of(seeds, column) for column in others]
        row.append(_ratio(pairs, 'step_seconds'))
        megabytes = np.mean([run['peak_memory_mb'] for run in seeds.values()])
        row.append(f'{_ratio(pairs, "peak_memory_mb")} ({megabytes:.0f} MB)')
        some = next(iter(seeds.values()))
        row += [
            f'{some[key] - parameters:,}'
            for key in ('parameters_training', 'parameters_inference')
        ]
        rows.append(row)
    return rows


def _values(results: Sequence[dict], column: Column) -> List[float]:
    """Return a metric of each run, or nothing if a run lacks it."""
    if any(column.metric not in result['metrics'] for result in results):
        return []
    return [column.scale * result['metrics'][column.metric] for result in results]


def _mean_of(seeds: Dict[int, dict], column: Column) -> str:
    return mean_std(_values(list(seeds.values()), column), column.digits)


def _difference(pairs: Sequence[Tuple[dict, dict]], column: Column) -> str:
    if not pairs:
        return '–'
    own, plain = (_values(results, column) for results in zip(*pairs))
    if not own or not plain:
        return '–'
    mean, half = paired_interval(own, plain)
    if len(pairs) < 2:
        return f'{mean:+.2f} (n=1: no interval)'
    return f'{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}] (n={len(pairs)})'


def _ratio(pairs: Sequence[Tuple[dict, dict]], key: str) -> str:
    """Return the mean of a cost over that of the plain student."""
    if not pairs:
        return '–'
    return f'×{np.mean([own[key] / plain[key] for own, plain in pairs]):.2f}'


def _environments(results: Dict[Run, dict]) -> List[List[str]]:
    """Return every environment in which runs were made, usually one."""
    found = {json.dumps(result['environment']): result for result in results.values()}
    environments = [result['environment'] for result in found.values()]
    names = list(environments[0])
    return [names, *([str(e.get(name, '')) for name in names] for e in environments)]


def _pictures(results: Dict[Run, dict], quality: Column, out: str) -> List[Section]:
    """Draw what can be drawn of these runs."""
    curves: Dict[str, list] = {}
    predictions: Dict[str, list] = {}
    unlogged = ''
    for run in results:
        log = osp.join(run.folder, SCALARS)
        try:
            curve = read_curves(log, quality.metric, quality.scale)
            curves.setdefault(run.method, []).append(curve)
        except ValueError as error:  # trained without validation
            unlogged = str(error)
        path = osp.join(run.folder, PREDICTIONS)
        if osp.isfile(path):
            with np.load(path) as arrays:
                predictions.setdefault(run.method, []).append(Predictions(**arrays))
    sections = []
    if unlogged:
        sections.append(Section('Learning curves', text=f'Not drawn: {unlogged}'))
    else:
        draw_learning_curves(
            curves,
            metric_label=quality.label,
            title="The student's own training loss, and its quality in validation",
            path=osp.join(out, CURVES),
        )
        sections.append(Section('Learning curves', picture=CURVES))
    if predictions:
        pooled = {
            method: Predictions(*map(np.concatenate, zip(*seeds)))
            for method, seeds in predictions.items()
        }
        draw_reliability(pooled, osp.join(out, RELIABILITY))
        text = 'Accuracy by confidence, the test predictions of all seeds together.'
        sections.append(Section('Reliability', text=text, picture=RELIABILITY))
    return sections


def _markdown(title: str, sections: Sequence[Section]) -> str:
    parts = [f'# {title}']
    for section in sections:
        parts.append(f'## {section.title}')
        if section.rows:
            parts.append(markdown_table(section.rows))
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
body { font-family: sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ccc; padding: .4em .8em; text-align: left; }
img { max-width: 100%; }
pre { background: #f4f4f4; overflow-x: auto; padding: 1em; }
"""


def _html(title: str, sections: Sequence[Section], out: str) -> str:
    """Return a page that needs no other file."""
    parts = [f'<h1>{html.escape(title)}</h1>']
    for section in sections:
        parts.append(f'<h2>{html.escape(section.title)}</h2>')
        if section.rows:
            parts.append(_html_table(section.rows))
        if section.text:
            parts.append(f'<p>{html.escape(section.text)}</p>')
        if section.picture:
            with open(osp.join(out, section.picture), 'rb') as file:
                data = base64.b64encode(file.read()).decode('ascii')
            alt = html.escape(section.title)
            parts.append(f'<img alt="{alt}" src="data:image/png;base64,{data}">')
        if section.code:
            parts.append(f'<pre>{html.escape(section.code)}</pre>')
    body = '\n'.join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n'
        f'<body>\n{body}\n</body>\n</html>\n'
    )


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = 'td' if number else 'th'
        cells = ''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in row)
        lines.append(f'<tr>{cells}</tr>')
    return '<table>\n' + '\n'.join(lines) + '\n</table>'
