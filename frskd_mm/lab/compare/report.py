"""The comparison's table, pictures and reports."""

import json
import os.path as osp
from typing import Dict, List, Optional, Sequence

import numpy as np
from mmengine.config import Config

from frskd_mm.engine.methods import PLAIN
from frskd_mm.evaluation.calibration import Predictions
from frskd_mm.lab.tables import markdown_table
from frskd_mm.lab.visualization.differences import draw_differences
from frskd_mm.lab.visualization.gains import draw_gain_and_cost
from frskd_mm.lab.visualization.learning_curves import draw_learning_curves, read_curves
from frskd_mm.lab.visualization.reliability import draw_reliability
from frskd_mm.utils.checkpoint_files import write_whole
from frskd_mm.utils.model import build_model, count_parameters

from .grid import RECIPE, Run, finished_before, results_of
from .pages import Section, html_page, markdown_page
from .quality import Column
from .run import PREDICTIONS, SCALARS
from .summary import AHEAD, BEHIND, Row, Summary, is_emphasised

DIFFERENCES, PARETO = 'differences.png', 'gain_and_cost.png'
CURVES, RELIABILITY = 'learning_curves.png', 'reliability.png'

LEGEND = (
    'Mean ± standard deviation over n seeds, of the weights after the last iteration; '
    'no epoch is picked by the test set. Difference: to the plain student (none) of '
    "the same seed, with the 95 % interval of Student's t for n paired seeds. "
    "Corrected: by Bonferroni, so that all methods' intervals hold together; "
    f'{AHEAD} or {BEHIND} and a coloured row say that it leaves out 0. Step time: '
    'median time of a training step. Memory: peak of the process, or of tensors on a '
    'GPU. Both relative to the plain student of the same seed, if that ran on the same '
    'kind of device with as many threads. ECE: 15 bins of equal '
    'width, the mean over the seeds, each by itself. '
    "Added parameters: beside the plain student's, while training (without a frozen "
    'pretrained teacher) and in the exported student. –: the evaluator gave none for '
    'some seed, as for a detector without detections.'
)


def write_report(
    runs: Sequence[Run], out: str, command: str, metric: Optional[str] = None
) -> str:
    """Write what the finished runs gave: ``report.md``, ``report.html``.

    Also writes the pictures and ``results.json``, the numbers of each run. Runs that
    earlier commands finished in the folder are in all of them, and in the correction.

    Args:
        runs: The grid that was asked for; some may have failed.
        out: The grid's folder.
        command: What the user typed.
        metric: Name of the quality, as the evaluator gives it; found out for
            the hosts' usual ones.

    Returns:
        str: The table as Markdown.

    Raises:
        ValueError: If no run has finished, or the metric is unknown.
    """
    failed = [run for run in runs if not run.finished]
    num_asked = len(runs)
    earlier = finished_before(runs, out)
    runs = [*runs, *earlier]
    by_method = results_of(runs)
    if not by_method:
        raise ValueError(f'No run of {out} has finished, so there is no report.')
    results = {run: by_method[run.method][run.seed] for run in runs if run.finished}
    summary = Summary(by_method, [run.method for run in runs], metric)
    table = summary.table(_plain_parameters(out))
    sections = summary_sections(summary, table, out)
    if failed:
        sections.append(
            Section(
                'Failed runs',
                text=f'{len(failed)} of {num_asked} runs failed and are not in the '
                'table. The same command tries them again.',
                code='\n\n'.join(
                    f'{run.method}, seed {run.seed}:\n{run.last_log_lines()}'
                    for run in failed
                ),
            )
        )
    sections += _pictures(results, summary.quality, out)
    sections += [
        Section('Command', text=_tell_of(earlier), code=command),
        Section('Machine', rows=_environments(results)),
        Section('Recipe of the plain student', code=_read_text(osp.join(out, RECIPE))),
    ]
    title = f'{len(by_method)} methods, one recipe'
    verdict = summary.verdict()
    _write_text(osp.join(out, 'report.md'), markdown_page(title, verdict, sections))
    _write_text(osp.join(out, 'report.html'), html_page(title, verdict, sections, out))
    numbers = [
        dict(method=run.method, seed=run.seed, **result)
        for run, result in results.items()
    ]
    _write_text(osp.join(out, 'results.json'), json.dumps(numbers, indent=2) + '\n')
    return markdown_table([row.cells for row in table])


def summary_sections(summary: Summary, table: Sequence[Row], out: str) -> List[Section]:
    """Return the report's first parts, those that need the numbers alone.

    Args:
        summary: The numbers.
        table: From :meth:`Summary.table`.
        out: Folder for the picture of the differences.
    """
    sections = [Section('Results', text=LEGEND, rows=table)]
    if teachers := summary.teachers():
        text = (
            'On the test data, without labels. One that knows no more than its student '
            'can still smooth and regularise, but not tell it anything.'
        )
        sections.append(Section('Self-teachers', text=text, rows=teachers))
    if summary.differences:
        names = [PLAIN, *summary.differences]
        draw_differences(
            summary.differences,
            {name: summary.time(name) for name in names},
            baseline=PLAIN,
            emphasised=list(filter(is_emphasised, summary.differences)),
            label=f'difference in {summary.quality.label}',
            path=osp.join(out, DIFFERENCES),
        )
        text = (
            'To the plain student of the same seed. Thick: the 95 % interval of one '
            f'method; {_thin(summary.num_tests)}green or red where that leaves out 0. '
            'Right: the time of a training, in those of the plain student: a '
            "step's times the factor on their number."
        )
        picture = Section('Gain and cost', text, picture=DIFFERENCES, is_narrow=True)
        sections.insert(0, picture)
        names = [name for name in names if summary.has_cost(name)]
        draw_gain_and_cost(
            {name: d for name, d in summary.differences.items() if name in names},
            {name: summary.time_ratio(name) for name in names},
            baseline=PLAIN,
            named=list(filter(is_emphasised, names)),
            label=f'difference in {summary.quality.label}',
            path=osp.join(out, PARETO),
        )
        text = (
            'The same against the time of a training, with the 95 % interval of one '
            'method. The grey line connects what no other method beats in both, by '
            'its mean: with few seeds it may be another one tomorrow.'
        )
        sections.append(Section('Pareto set', text, picture=PARETO, is_narrow=True))
    return sections


def _thin(num_tests: int) -> str:
    return f'thin: corrected for {num_tests} methods; ' if num_tests > 1 else ''


def _read_text(path: str) -> str:
    with open(path, encoding='utf-8') as file:
        return file.read()


def _write_text(path: str, text: str) -> None:
    write_whole(path, text.encode())


def _plain_parameters(out: str) -> int:
    return count_parameters(build_model(Config.fromfile(osp.join(out, RECIPE))))


def _tell_of(earlier: Sequence[Run]) -> str:
    if not earlier:
        return ''
    names = ', '.join(dict.fromkeys(run.method for run in earlier))
    return f'Earlier commands trained {names} in this folder.'


def _environments(results: Dict[Run, dict]) -> List[Row]:
    """Return every environment in which runs were made, usually one."""
    found = {json.dumps(result['environment']): result for result in results.values()}
    environments = [result['environment'] for result in found.values()]
    names = list(environments[0])
    rows = [[str(e.get(name, '')) for name in names] for e in environments]
    return [Row(cells) for cells in (names, *rows)]


def _pictures(results: Dict[Run, dict], quality: Column, out: str) -> List[Section]:
    """Draw what can be drawn of these runs."""
    curves: Dict[str, list] = {}
    predictions: Dict[str, list] = {}
    unlogged: List[str] = []
    for run in results:
        log = osp.join(run.folder, SCALARS)
        try:
            curve = read_curves(log, quality.metric, quality.scale)
            curves.setdefault(run.method, []).append(curve)
        except ValueError:  # trained without validation
            unlogged.append(run.method)
        path = osp.join(run.folder, PREDICTIONS)
        if osp.isfile(path):
            with np.load(path) as arrays:
                found = Predictions(*(arrays[name] for name in Predictions._fields))
            predictions.setdefault(run.method, []).append(found)
    sections = []
    text = ''
    if unlogged:
        names = ', '.join(dict.fromkeys(unlogged))
        text = f'No validation logged {quality.metric} of {names}.'
    if curves:
        draw_learning_curves(
            curves,
            metric_label=quality.label,
            title="The student's own training loss, and its quality in validation",
            path=osp.join(out, CURVES),
        )
    picture = CURVES if curves else ''
    sections.append(Section('Learning curves', text, picture=picture))
    if predictions:
        draw_reliability(predictions, osp.join(out, RELIABILITY))
        text = (
            'Accuracy by confidence, the test predictions of all seeds together. ECE: '
            'as in the table.'
        )
        sections.append(Section('Reliability', text=text, picture=RELIABILITY))
    return sections
