"""A run that was interrupted anywhere ends as the uninterrupted one."""

import shutil

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from small_runs import (
    DROPOUT,
    PLAIN,
    assert_equal_states,
    config,
    forget_the_last_run,
    run,
    state,
)

from frskd_mm.engine import evaluate, train
from frskd_mm.utils.environment import CLASSIC, package_family

ITERATIONS = {
    'default_hooks.checkpoint.by_epoch': False,
    'default_hooks.checkpoint.interval': 3,
    **DROPOUT,
}
NO_SEEDS = {'custom_hooks': []}
ITERATION_LOOP = {
    'train_cfg.by_epoch': False,
    'train_cfg.max_iters': 12,
    'train_cfg.max_epochs': '-',
    'train_cfg.val_interval': 3,
    'param_scheduler.by_epoch': False,
    'param_scheduler.T_max': 12,
    'default_hooks.logger.interval': 5,
}


def resume_from(name, whole, folder, options):
    """Resume from one of a whole run's checkpoints, as after a kill there."""
    folder.mkdir()
    shutil.copy(whole / name, folder)
    (folder / 'last_checkpoint').write_text(str(folder / name))
    runner = run(folder, options, resume='auto')
    # A run that began anew would have written it, too.
    assert (folder / name).read_bytes() == (whole / name).read_bytes()
    return runner


@pytest.mark.parametrize(
    ('options', 'last', 'between'),
    [
        # 5 steps an epoch: within the first one, at its end, within the second.
        (ITERATIONS, 10, (3, 6)),
        pytest.param({**ITERATIONS, **NO_SEEDS}, 10, (3,), marks=pytest.mark.slow),
        pytest.param(
            {**ITERATIONS, **NO_SEEDS, 'train_dataloader.num_workers': 2},
            10,
            (6,),
            marks=pytest.mark.slow,
        ),
        (
            {
                **ITERATIONS,
                **NO_SEEDS,
                'default_hooks.checkpoint.interval': 1,
                'train_dataloader.num_workers': 2,
                'train_dataloader.persistent_workers': True,
            },
            10,
            (3, 5, 6),  # another epoch follows the first two, with the same iterator
        ),
        pytest.param(
            {**ITERATIONS, 'default_hooks.checkpoint.interval': 5},
            10,
            (5,),
            marks=pytest.mark.slow,
        ),
        # The loop of iterations: over a finite sampler, and an infinite one.
        pytest.param(
            {**ITERATIONS, **NO_SEEDS, **ITERATION_LOOP},
            12,
            (6,),
            marks=pytest.mark.slow,
        ),
        (
            {
                **ITERATIONS,
                **NO_SEEDS,
                **ITERATION_LOOP,
                'train_dataloader.num_workers': 2,
                'train_dataloader.sampler.type': 'InfiniteSampler',
            },
            12,
            (3, 9),
        ),
        (
            {
                **ITERATIONS,
                **NO_SEEDS,
                **ITERATION_LOOP,
                'train_dataloader.sampler.type': 'InfiniteSampler',
            },
            12,
            (6,),
        ),
    ],
    ids=[
        'epochs',
        'epochs unseeded',
        'epochs, workers',
        'epochs, persistent workers',
        'end of an epoch',
        'iterations, finite',
        'iterations, workers',
        'iterations',
    ],
)
def test_runs_by_iterations_end_with_the_same_weights(tmp_path, options, last, between):
    in_loop = options.items() >= ITERATION_LOOP.items()
    without_workers = not options.get('train_dataloader.num_workers')
    if in_loop and without_workers and package_family() is CLASSIC:
        pytest.skip('MMEngine 0.10.7 loads what a resumed loop without workers skips')
    run(tmp_path / 'whole', options)
    final = f'iter_{last}.pth'
    expected = state(tmp_path / 'whole', final)
    for step in between:
        folder = tmp_path / f'from_{step}'
        runner = resume_from(f'iter_{step}.pth', tmp_path / 'whole', folder, options)
        assert runner.iter == last
        assert_equal_states(state(folder, final), expected)


@pytest.mark.parametrize('workers', [0, 2])
def test_runs_by_epochs_without_seeds_for_each_end_with_the_same_weights(
    tmp_path, workers
):
    options = {
        **DROPOUT,
        **NO_SEEDS,
        'train_cfg.val_interval': 1,
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
    }
    run(tmp_path / 'whole', options)
    resume_from('epoch_1.pth', tmp_path / 'whole', tmp_path / 'from_1', options)
    assert_equal_states(
        state(tmp_path / 'from_1', 'epoch_2.pth'),
        state(tmp_path / 'whole', 'epoch_2.pth'),
    )


@HOOKS.register_module(force=True)
class SaveInBetween(Hook):
    """Saves by itself, as a user's hook that does so every some minutes."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 7:
            runner.save_checkpoint(runner.work_dir, 'iter_8.pth', by_epoch=False)


def test_what_another_hook_saves_has_its_own_place_in_the_data(tmp_path):
    options = {
        **DROPOUT,
        'custom_hooks': [dict(type='SaveInBetween')],
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 5,
    }
    run(tmp_path / 'whole', options)
    expected = state(tmp_path / 'whole', 'iter_10.pth')
    runner = resume_from('iter_8.pth', tmp_path / 'whole', tmp_path / 'again', options)
    assert runner.iter == 10
    assert_equal_states(state(tmp_path / 'again', 'iter_10.pth'), expected)


def test_an_evaluation_leaves_the_config_as_it_is(tmp_path):
    cfg = config(tmp_path / 'run', {'train_cfg.max_epochs': 1}, path=PLAIN)
    train(cfg)
    before = cfg.to_dict()
    forget_the_last_run()
    evaluate(cfg, str(tmp_path / 'run' / 'epoch_1.pth'))
    assert cfg.to_dict() == before
