"""Which of an evaluator's values are numbers."""

import numpy as np

from frskd_mm.utils.metrics import numbers_of


def test_numbers_are_kept_and_nan_is_none():
    found = numbers_of(
        dict(top1=np.float32(0.5), images=3, name='x', nothing=float('nan'))
    )
    assert found == dict(top1=0.5, images=3.0)
    assert 'nothing' in numbers_of(dict(nothing=float('nan')), nan=True)
