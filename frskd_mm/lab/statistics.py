"""Statistics over seeds."""

from typing import Sequence, Tuple, Union

import numpy as np


def mean_std(values: Union[Sequence[float], np.ndarray], digits: int = 2) -> str:
    """Format as 'mean ± sample standard deviation'; one value has none."""
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
        tuple[float, float]: Mean and half width; with one seed the width is
        NaN.
    """
    from scipy.stats import t

    differences = np.subtract(values, baseline)
    n = len(differences)
    if n < 2:
        return float(differences.mean()), float('nan')
    error = differences.std(ddof=1) / np.sqrt(n)
    return float(differences.mean()), float(t.ppf((1 + confidence) / 2, n - 1) * error)
