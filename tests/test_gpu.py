"""What only a GPU has: gradient scaling, its kernels' determinism, its memory."""

import pytest
import torch
from small_runs import OPTIONS, assert_equal_states, run, state

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')

DETERMINISTIC = {'randomness': dict(seed=0, deterministic=True)}
FP16 = {'optim_wrapper.type': 'AmpOptimWrapper', 'optim_wrapper.dtype': 'float16'}
#: float16 ends at 65,504: no gradient survives being multiplied by so much.
TOO_LARGE = 2.0**40


def test_overflows_lower_the_scale_and_training_goes_on(tmp_path):
    steps = OPTIONS['train_cfg.max_epochs'] * 5
    scale = {'optim_wrapper.loss_scale': dict(init_scale=TOO_LARGE)}
    runner = run(tmp_path, {**FP16, **scale})
    left = runner.optim_wrapper.loss_scaler.get_scale()
    assert TOO_LARGE / 2**steps <= left < TOO_LARGE
    checkpoint = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)
    assert checkpoint['optimizer']['loss_scaler']['scale'] == left
    assert all(v.isfinite().all() for v in checkpoint['state_dict'].values())


@pytest.mark.parametrize('precision', [{}, FP16], ids=['float32', 'float16'])
def test_two_trainings_and_a_resumed_one_end_alike(tmp_path, precision):
    options = {**DETERMINISTIC, **precision}
    for name in ('one', 'other'):
        run(tmp_path / name, options)
    run(tmp_path / 'resumed', options, resume=str(tmp_path / 'one/epoch_1.pth'))
    expected = state(tmp_path / 'one', 'epoch_2.pth')
    for name in ('other', 'resumed'):
        assert_equal_states(state(tmp_path / name, 'epoch_2.pth'), expected)


def test_what_is_not_finite_ends_the_run_before_a_weight_changes(tmp_path):
    with pytest.raises(FloatingPointError, match=r'loss'):
        run(tmp_path, {'optim_wrapper.optimizer.lr': 1e30})


def test_bfloat16_trains(tmp_path):
    run(tmp_path, {**FP16, 'optim_wrapper.dtype': 'bfloat16'})
    weights, _ = state(tmp_path, 'epoch_2.pth')
    assert all(value.isfinite().all() for value in weights.values())
