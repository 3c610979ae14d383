"""Timing in turns, and what the times come to."""

from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence

import numpy as np

Seconds = Dict[str, float]


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> 'Spread':
        """Summarise the values."""
        low, median, high = np.percentile(values, (25, 50, 75))
        return cls(float(median), float(low), float(high))

    def as_dict(self) -> Dict[str, float]:
        """Return it for JSON."""
        return dict(median=self.median, q1=self.low, q3=self.high)


def run_in_turns(
    steps: Mapping[str, Callable[[], Seconds]],
    rounds: int,
    warmup: int,
    after_step: Callable[[], None] = lambda: None,
) -> Dict[str, List[Seconds]]:
    """Run every step once a round, each round beginning with the next one.

    So whatever else slows the machine down for a while slows all of them.

    Args:
        steps: Functions that return their seconds, by name.
        rounds: How many are measured.
        warmup: How many before them are not.
        after_step: Called between steps, whose time it does not take part in.

    Returns:
        dict[str, list[dict[str, float]]]: What they returned, round by round.
    """
    names = list(steps)
    seconds: Dict[str, List[Seconds]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        first = number % len(names)
        for name in [*names[first:], *names[:first]]:
            taken = steps[name]()
            if number >= warmup:
                seconds[name].append(taken)
            after_step()
    return seconds


def paired_ratio(own: Sequence[Seconds], other: Sequence[Seconds]) -> Spread:
    """Summarise the ratios of the totals, each of one round."""
    return Spread.of([a['total'] / b['total'] for a, b in zip(own, other)])
