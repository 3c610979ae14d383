"""Two processes train as one process with the joined batch does.

Both processes hold equally many images, as MMEngine's samplers see to: with
other numbers, PyTorch's mean over processes weighs images unequally, plain
students included. Batch statistics are each process's own without SyncBN, so
all norms are GN here.
"""

from functools import lru_cache

import pytest
import torch
from parallel_cases import (
    CASES,
    RANDOM_CASES,
    WORLD_SIZE,
    run_worker,
    train_jointly,
)
from torch import multiprocessing


@pytest.fixture(scope='module')
def in_parallel(tmp_path_factory, request):
    """Steps of every process by case; the processes run all selected cases."""
    folder = tmp_path_factory.mktemp('parallel')
    tests = [item for item in request.session.items if item.path == request.path]
    names = [
        test.callspec.params['name']
        for test in tests
        if 'in_parallel' in test.fixturenames
    ]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    failure = None
    try:
        multiprocessing.spawn(run_worker, (names, str(folder)), nprocs=WORLD_SIZE)
    except multiprocessing.ProcessExitedException as error:
        # Gloo aborts where the processes' collective calls do not pair up.
        failure = error
    finally:
        monkeypatch.undo()

    def steps_of(name):
        paths = [folder / f'{name}.{rank}' for rank in range(WORLD_SIZE)]
        if not all(path.exists() for path in paths):
            pytest.fail(f'{name} or a case before it ended the processes: {failure}')
        ranks = [torch.load(path, weights_only=False) for path in paths]
        for rank, steps in enumerate(ranks):
            assert not isinstance(steps, str), f'process {rank}:\n{steps}'
        return list(zip(*ranks))

    return steps_of


@lru_cache(maxsize=None)
def joint_steps(name):
    return train_jointly(name)


@pytest.mark.parametrize('name', CASES)
def test_losses_and_gradients_are_those_of_the_joined_batch(name, in_parallel):
    case = CASES[name]
    steps = zip(joint_steps(name), in_parallel(name))
    for terms, (joint, ranks) in zip(case.terms, steps):
        assert all(rank.losses.keys() == joint.losses.keys() for rank in ranks)
        for term in terms:
            found = [key for key in joint.losses if key.startswith(term)]
            assert found, term
            assert all(joint.losses[key] > 0 for key in found)
        for key, value in joint.losses.items():
            if case.synchronised or key in terms:
                mean = sum(rank.losses[key] for rank in ranks) / WORLD_SIZE
                assert mean == pytest.approx(value, rel=1e-6, abs=1e-9), key
        for rank in ranks:
            assert_equal_grads(rank.grads, joint.grads)
            torch.testing.assert_close(rank.buffers, joint.buffers)


def assert_equal_grads(found, expected):
    """Require equal gradients; some hosts average denominators in float32."""
    assert found.keys() == expected.keys()
    for key, grad in expected.items():
        torch.testing.assert_close(
            found[key],
            grad,
            rtol=1e-5,
            atol=1e-6 * float(grad.abs().max()) + 1e-9,
            msg=lambda text, key=key: f'{key}: {text}',
        )


@pytest.mark.parametrize('name', CASES)
def test_rounding_decides_nothing(name):
    """In float32 an activation of FCOS lay 3e-7 from 0, where rounding chose its side.

    Processes and threads sum in another order. Changing every pixel by some roundings
    stands for that, on any machine.
    """
    noise = 8 * torch.finfo(CASES[name].dtype).eps
    for noisy, exact in zip(train_jointly(name, noise), joint_steps(name)):
        assert_equal_grads(noisy.grads, exact.grads)


@pytest.mark.parametrize('name', RANDOM_CASES)
def test_processes_stay_equal_where_one_has_no_box(name, in_parallel):
    case = RANDOM_CASES[name]
    for terms, (first, second) in zip(case.terms, in_parallel(name)):
        for term in terms:
            found = [key for key in first.losses if key.startswith(term)]
            assert sum(first.losses[key] for key in found) > 0
        assert first.losses != second.losses
        assert first.losses.keys() == second.losses.keys()
        assert first.grads.keys() == second.grads.keys()
        for key, grad in first.grads.items():
            assert torch.isfinite(grad).all(), key
            assert torch.equal(grad, second.grads[key]), key
