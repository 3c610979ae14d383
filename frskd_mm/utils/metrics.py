"""What evaluators return."""

from typing import Any, Dict

import numpy as np


def numbers_of(metrics: Dict[str, Any], nan: bool = False) -> Dict[str, float]:
    """Return the metrics that are numbers: evaluators may give other things, too.

    Args:
        metrics: By name.
        nan: Keep NaN, too, which says that there was nothing to measure.
    """
    return {
        name: float(value)
        for name, value in metrics.items()
        if isinstance(value, (int, float, np.number)) and (nan or not np.isnan(value))
    }
