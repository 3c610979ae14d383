"""What a comparison's numbers say: its table and one sentence."""

import json
from operator import itemgetter
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np

from frskd_mm.engine.methods import PLAIN
from frskd_mm.lab.statistics import Difference, mean_std, paired_differences

from .length import split_length
from .quality import CALIBRATION, OTHERS, Column, find_quality

#: The method that this package is about, in both published readings.
MAIN_METHODS = ('frskd', 'frskd-attached')
#: What a run's ``self_teacher`` has beside the quality.
OF_TEACHERS = (
    Column('agreement', 'says what its student says (%)', 100.0),
    *(column for column in OTHERS if column.metric.startswith(CALIBRATION)),
)
AHEAD, BEHIND = '▲', '▼'

#: Numbers of each method's runs, by seed.
Results = Dict[str, Dict[int, Dict[str, Any]]]


def read_results(path: str) -> Results:
    """Read the numbers of a comparison's runs from its ``results.json``."""
    with open(path, encoding='utf-8') as file:
        runs = json.load(file)
    results: Results = {}
    for run in runs:
        results.setdefault(run['method'], {})[run['seed']] = run
    return results


class Row(NamedTuple):
    """A method in the table."""

    cells: List[str]
    #: Whether it is the plain student or one of :data:`MAIN_METHODS`.
    emphasised: bool = False
    #: 1 or -1 where the corrected interval leaves out 0.
    sign: int = 0


class Summary:
    """The numbers of a comparison's runs, in words and as a table.

    Args:
        results: Of the methods and seeds that finished, in the order to name
            methods in.
        methods: All that were asked for, also those of which no run finished.
        metric: Name of the quality; found out for the hosts' usual ones.

    Raises:
        ValueError: If no evaluator gave the metric.
    """

    def __init__(
        self, results: Results, methods: Sequence[str], metric: Optional[str] = None
    ) -> None:
        self.results = results
        self.methods = list(dict.fromkeys(methods))
        self.quality = find_quality(self._metric_names(), metric)
        self.pairs = {method: self._pairs_of(method) for method in results}
        self.differences = self._differences()

    @property
    def num_tests(self) -> int:
        """Methods with several seeds: for so many the intervals are corrected."""
        return sum(found.n > 1 for found in self.differences.values())

    def _metric_names(self) -> Set[str]:
        runs = (run for seeds in self.results.values() for run in seeds.values())
        return {name for run in runs for name in run['metrics']}

    def _pairs_of(self, method: str) -> List[Tuple[dict, dict]]:
        """Return a method's runs, each with the plain student's of its seed."""
        plain = self.results.get(PLAIN, {})
        own = self.results[method]
        return [(own[seed], plain[seed]) for seed in own if seed in plain]

    def _differences(self) -> Dict[str, Difference]:
        """Return the differences by method, the largest first."""
        values = {}
        for method, pairs in self.pairs.items():
            if method == PLAIN or not pairs:
                continue
            own, plain = (_values(runs, self.quality) for runs in zip(*pairs))
            if own and plain:
                values[method] = (own, plain)
        found = paired_differences(values)
        return dict(sorted(found.items(), key=lambda item: -item[1].mean))

    def cost(self, method: str, key: str = 'step_seconds') -> str:
        """Return the mean of a cost over that of the plain student, as '×1.34'."""
        return _times(self._ratio(method, key)) if self.has_cost(method) else '–'

    def has_cost(self, method: str) -> bool:
        """Whether any pair was run alike: on one kind of device, by equal threads."""
        return bool(self._like_pairs(method))

    def _like_pairs(self, method: str) -> List[Tuple[dict, dict]]:
        pairs = self.pairs[method]
        return [pair for pair in pairs if _place(pair[0]) == _place(pair[1])]

    def time(self, method: str) -> str:
        """Return the time of a training over that of the plain student."""
        return _times(self.time_ratio(method)) if self.has_cost(method) else '–'

    def time_ratio(self, method: str) -> float:
        """Return the same as a number; the method must have a cost.

        Of as many steps as were made: a factor on the epochs is rounded, and a hook
        may stop a training early. Numbers of earlier versions lack them.
        """
        pairs = self._like_pairs(method)
        if not all('steps' in run for pair in pairs for run in pair):
            return split_length(method)[1] * self._ratio(method, 'step_seconds')
        return _mean_ratio(pairs, lambda run: run['steps'] * run['step_seconds'])

    def _ratio(self, method: str, key: str) -> float:
        return _mean_ratio(self._like_pairs(method), itemgetter(key))

    def verdict(self) -> str:
        """Say in one sentence which methods are shown to differ, and at what cost."""
        if PLAIN not in self.results:
            return (
                'The plain student (none) is not among the methods that finished, so '
                'there is no difference to judge.'
            )
        if not self.differences:
            return (
                'No method could be compared: of none has a run finished whose seed '
                'the plain student has, too, and in which both have the metric.'
            )
        if not self.num_tests:
            return (
                'One pair of seeds shows no difference: at least two have to finish, '
                'of --seeds, better ten.'
            )
        ahead = [name for name, found in self.differences.items() if found.sign > 0]
        behind = [name for name, found in self.differences.items() if found.sign < 0]
        parts = [
            f'{self._list(names)} {"are" if len(names) > 1 else "is"} {place} the '
            'plain student'
            for names, place in ((ahead, 'above'), (behind, 'below'))
            if names
        ]
        rest = [name for name in self.differences if name not in (*ahead, *behind)]
        if rest:
            parts.append(
                'no other method is shown to differ from it'
                if parts
                else 'no method is shown to differ from the plain student'
            )
        main = [name for name in MAIN_METHODS if name in rest]
        if main:
            parts[-1] += f', {self._list(main)} included'
        return f'{self._condition()}{"; ".join(parts)}.'

    def _condition(self) -> str:
        """Say for how many intervals at once the sentence holds."""
        if self.num_tests == 1:
            return 'By the 95 % interval, '
        return f'After correction for {self.num_tests} methods, '

    def _list(self, methods: Sequence[str]) -> str:
        texts: List[str] = []
        for method in methods:
            found = self.differences[method]
            seeds = 'one seed' if found.n < 2 else 'every seed'
            interval = f'{found.mean:+.{self.quality.digits}f} with {seeds}'
            if found.has_interval:
                interval = _interval(found.mean, found.corrected, self.quality)
            if self.has_cost(method):
                interval += f', {self.time(method)} the training time'
            texts.append(f'{method} ({interval})')
        return ' and '.join([', '.join(texts[:-1]), texts[-1]] if texts[1:] else texts)

    def _ordered(self) -> List[str]:
        """Return the plain student, the others by their difference, then the rest."""
        first = [PLAIN, *self.differences]
        return sorted(
            self.methods, key=lambda m: first.index(m) if m in first else len(first)
        )

    def table(self, parameters: int) -> List[Row]:
        """Return the header and a row for each method.

        The plain student comes first, then the others by their difference, then
        those without one.

        Args:
            parameters: The plain student's.
        """
        others = [c for c in OTHERS if c.metric in self._metric_names()]
        is_corrected = self.num_tests > 1
        header = ['method', 'n', self.quality.label, 'difference [95 % interval]']
        if is_corrected:
            header.append(f'corrected for {self.num_tests} methods')
        header += ['step time', *(column.label for column in others)]
        header += ['memory', 'added in training', 'added in use']
        rows = [Row(header)]
        for method in self._ordered():
            if method not in self.results:
                cells = [method, '0', 'failed', *['–'] * (len(header) - 3)]
                rows.append(Row(cells, is_emphasised(method)))
                continue
            found = self.differences.get(method)
            seeds = list(self.results[method].values())
            cells = [method, str(len(seeds)), _mean_of(seeds, self.quality)]
            cells.append(difference_cell(found, self.quality))
            if is_corrected:
                cells.append(_corrected(found, self.quality))
            cells.append(self.cost(method))
            cells += [_mean_of(seeds, column) for column in others]
            megabytes = np.mean([run['peak_memory_mb'] for run in seeds])
            cells.append(f'{self.cost(method, "peak_memory_mb")} ({megabytes:.0f} MB)')
            cells += [
                f'{seeds[0][key] - parameters:,}'
                for key in ('parameters_training', 'parameters_inference')
            ]
            sign = found.sign if found else 0
            rows.append(Row(cells, is_emphasised(method), sign))
        return rows

    def teachers(self) -> List[Row]:
        """Return the header and a row for each self-teacher, or nothing.

        A self-teacher that knows no more than its student cannot teach it much.
        """
        scores: Dict[str, List[dict]] = {}
        for method in self._ordered():
            runs = list(self.results.get(method, {}).values())
            teachers = [run.get('self_teacher') for run in runs]
            if not teachers or not all(teachers):
                continue
            scores[method] = [dict(metrics=metrics) for metrics in teachers]
        if not scores:
            return []
        # Segmentors and detectors have no calibration.
        columns = [
            column
            for column in OF_TEACHERS
            if any(
                column.metric in run['metrics'] for s in scores.values() for run in s
            )
        ]
        header = ['method', 'n', f"student's {self.quality.label}"]
        header += [f"self-teacher's {self.quality.label}"]
        rows = [Row([*header, *(column.label for column in columns)])]
        for method, of_teachers in scores.items():
            runs = list(self.results[method].values())
            cells = [method, str(len(runs)), _mean_of(runs, self.quality)]
            cells += [_mean_of(of_teachers, c) for c in (self.quality, *columns)]
            rows.append(Row(cells, is_emphasised(method)))
        return rows


def is_emphasised(method: str) -> bool:
    """Whether a method is what others are looked at beside."""
    return method == PLAIN or split_length(method)[0] in MAIN_METHODS


def _place(run: Dict[str, Any]) -> Tuple[Any, Any]:
    """Return what costs depend on beside the method."""
    environment = run.get('environment', {})
    return environment.get('device'), environment.get('threads')


def _mean_ratio(
    pairs: Sequence[Tuple[dict, dict]], cost: Callable[[dict], float]
) -> float:
    return float(np.mean([cost(own) / cost(plain) for own, plain in pairs]))


def _times(ratio: float) -> str:
    return f'×{ratio:.2f}'


def _values(results: Sequence[dict], column: Column) -> List[float]:
    """Return a metric of each run, or nothing if a run lacks it."""
    if any(column.metric not in result['metrics'] for result in results):
        return []
    return [column.scale * result['metrics'][column.metric] for result in results]


def _mean_of(runs: Sequence[dict], column: Column) -> str:
    return mean_std(_values(runs, column), column.digits)


def _interval(mean: float, half: float, column: Column) -> str:
    digits = column.digits
    low, high = mean - half, mean + half
    return f'{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]'


def difference_cell(found: Optional[Difference], column: Column) -> str:
    """Return a difference with its interval as a cell of a table."""
    if found is None:
        return '–'
    if not found.has_interval:
        seeds = 'n=1' if found.n < 2 else f'n={found.n}, all alike'
        return f'{found.mean:+.{column.digits}f} ({seeds}: no interval)'
    return f'{_interval(found.mean, found.half, column)} (n={found.n})'


def _corrected(found: Optional[Difference], column: Column) -> str:
    if found is None or not found.has_interval:
        return '–'
    interval = _interval(found.mean, found.corrected, column).split(' ', 1)[1]
    mark = {1: f' {AHEAD}', -1: f' {BEHIND}'}.get(found.sign, '')
    return interval + mark
