"""Statistics over seeds."""

import math
from typing import Dict, Mapping, NamedTuple, Sequence, Tuple, Union

import numpy as np

#: Part of the values below which a spread of differences is that of rounding.
ROUNDING = 1e-9


def mean_std(values: Union[Sequence[float], np.ndarray], digits: int = 2) -> str:
    """Format as 'mean ± sample standard deviation'; one value has none.

    Example:
        >>> mean_std([1.0, 2.0, 3.0])
        '2.00 ± 1.00'
    """
    if not len(values):
        return '–'
    mean = f'{np.mean(values):.{digits}f}'
    if len(values) == 1:
        return mean
    return f'{mean} ± {np.std(values, ddof=1):.{digits}f}'


def paired_interval(
    values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> Tuple[float, float]:
    """Return the mean difference and the half width of its interval.

    The differences of equal seeds are taken as a sample of a normal
    distribution of unknown variance, so the width is Student's t times the
    standard error. Runs of one seed share the student's initial weights and the
    order of the data, which is why they are paired.

    Args:
        values: A method's value of each of n seeds.
        baseline: The plain student's, of the same seeds.
        confidence: Probability that the interval covers the true difference.

    Returns:
        tuple[float, float]: Mean and half width. The width is NaN with one seed,
        and where all seeds differ alike: their spread cannot be 0, so it was not
        seen.

    Example:
        >>> mean, half = paired_interval([3.0, 4.0, 5.5], [1.0, 3.0, 4.0])
        >>> print(f'{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]')
        +1.5 [+0.3, +2.7]
    """
    from scipy.stats import t

    differences = np.subtract(values, baseline)
    n = len(differences)
    largest = max(np.abs(values).max(), np.abs(baseline).max())
    if n < 2 or np.ptp(differences) <= ROUNDING * largest:
        return float(differences.mean()), float('nan')
    error = differences.std(ddof=1) / np.sqrt(n)
    return float(differences.mean()), float(t.ppf((1 + confidence) / 2, n - 1) * error)


class Difference(NamedTuple):
    """What a method's seeds say of its difference to the plain student."""

    mean: float
    #: Half width of the interval for this method alone; NaN where there is none.
    half: float
    #: Half width of the interval that is wide enough for all methods at once.
    corrected: float
    #: Pairs of seeds.
    n: int

    @property
    def has_interval(self) -> bool:
        """Whether there are several pairs of seeds, and they differ from each other."""
        return not math.isnan(self.half)

    @property
    def sign(self) -> int:
        """1 or -1 if the corrected interval is above or below 0, else 0."""
        return (self.mean - self.corrected > 0) - (self.mean + self.corrected < 0)


def paired_differences(
    pairs: Mapping[str, Tuple[Sequence[float], Sequence[float]]],
    confidence: float = 0.95,
) -> Dict[str, Difference]:
    """Return each method's difference, also corrected for how many there are.

    The correction is Bonferroni's: with m methods the interval of each has the
    confidence 1 - (1 - confidence) / m, and the probability that all of them cover
    their true difference is at least ``confidence``, however they depend on each
    other. Holm's, which finds a little more, gives no intervals of that kind.

    Args:
        pairs: By method, its values and the plain student's, of the same seeds.
        confidence: Probability that an interval covers the true difference.

    Returns:
        dict[str, Difference]: By method. Those with one pair have no interval, and
        do not count in the correction. Those whose pairs all differ alike have none,
        but count.
    """
    num_tests = sum(len(values) > 1 for values, _ in pairs.values())
    corrected = 1 - (1 - confidence) / max(1, num_tests)
    return {
        name: Difference(
            *paired_interval(values, baseline, confidence),
            paired_interval(values, baseline, corrected)[1],
            len(values),
        )
        for name, (values, baseline) in pairs.items()
    }
