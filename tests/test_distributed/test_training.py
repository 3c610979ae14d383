"""tools/train.py on two processes follows the curve of one."""

from pathlib import Path

import pytest
from mmengine.config import Config
from trainings import (
    CONFIG,
    EPOCHS,
    STEPS,
    assert_equal_curves,
    assert_equal_weights,
    curve_of,
    train_on_one,
    train_on_two,
    weights_of,
)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """One process throughout; and two processes, then one, then two again."""
    one, changing = (tmp_path_factory.mktemp(name) for name in ('one', 'changing'))
    train_on_one(one, EPOCHS)
    train_on_two(changing, 1)
    train_on_one(changing, 2, resume='auto')
    train_on_two(changing, 3, '--resume')
    return one, changing


def test_curve_is_that_of_one_process_with_the_joined_batch(runs):
    one, changing = (curve_of(work_dir) for work_dir in runs)
    assert len(one) == EPOCHS * STEPS
    assert_equal_curves(changing, one)
    assert one[-1]['loss_at'] < 0.5 * one[0]['loss_at']  # it does train


def test_weights_are_those_of_one_process_with_the_joined_batch(runs):
    one, changing = (weights_of(work_dir, EPOCHS) for work_dir in runs)
    assert_equal_weights(changing, one)


def test_no_search_for_unused_parameters(runs):
    cfg = Config.fromfile(runs[1] / Path(CONFIG).name)
    assert cfg.launcher == 'pytorch'
    assert cfg.model_wrapper_cfg.find_unused_parameters is False
