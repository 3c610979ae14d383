"""What a run refuses, and what it keeps when something goes wrong."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner, save_checkpoint
from small_runs import (
    CONFIG,
    PLAIN,
    REPO,
    assert_equal_states,
    config,
    forget_the_last_run,
    run,
    state,
)

from frskd_mm.engine import configure_run, load_config, train
from frskd_mm.engine.runs import build_runner
from frskd_mm.engine.work_dir_lock import LOCK, hold_work_dir
from frskd_mm.hooks import NonFiniteHook, SafeCheckpointHook
from frskd_mm.utils.checkpoint_files import find_checkpoint, find_damage


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The work directory of a plain run of two epochs."""
    folder = tmp_path_factory.mktemp('finished')
    run(folder, path=PLAIN)
    return folder


def unfinished(finished, folder):
    """Copy a run as it is after a kill in the second epoch."""
    folder.mkdir()
    shutil.copy(finished / 'epoch_1.pth', folder)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    return folder


def test_a_run_leaves_whole_files(finished):
    assert find_damage(str(finished / 'epoch_2.pth')) is None
    assert (finished / 'last_checkpoint').read_text() == str(finished / 'epoch_2.pth')
    assert not list(finished.glob('*.part'))
    # The config is that of the host library alone.
    assert 'SafeCheckpointHook' not in (finished / 'wrn10-1_digits.py').read_text()


@pytest.mark.parametrize('damage', ['flipped', 'cut', 'empty'])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    finished, tmp_path, capfd, damage
):
    folder = unfinished(finished, tmp_path / 'run')
    content = bytearray((finished / 'epoch_2.pth').read_bytes())
    content[len(content) // 2] ^= 4
    cut = dict(flipped=len(content), cut=1000, empty=0)[damage]
    (folder / 'epoch_2.pth').write_bytes(content[:cut])
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    run(folder, dict(log_level='WARNING'), path=PLAIN, resume='auto')
    found = capfd.readouterr()
    message = r'Damaged checkpoint \S+epoch_2.pth: it .*The one before is used'
    assert re.search(message, found.out + found.err)
    assert_equal_states(state(folder, 'epoch_2.pth'), state(finished, 'epoch_2.pth'))


def test_without_a_whole_checkpoint_nothing_begins(finished, tmp_path):
    folder = unfinished(finished, tmp_path / 'run')
    (folder / 'epoch_1.pth').write_bytes(b'PK')
    with pytest.raises(ValueError, match='epoch_1.pth: it was cut off.* Begin anew'):
        run(folder, path=PLAIN, resume='auto')


def test_resuming_what_is_finished_is_refused(finished):
    with pytest.raises(ValueError, match='finished: .*2 of 2 epochs.*max_epochs'):
        run(finished, path=PLAIN, resume='auto')

    # And it is still known to be, whatever was refused in between.
    with pytest.raises(ValueError, match='finished'):
        run(finished, path=PLAIN, resume='auto')


def test_resuming_without_a_checkpoint_begins_from_the_given_weights(
    finished, tmp_path
):
    weights = str(finished / 'epoch_1.pth')
    cfg = configure_run(
        load_config(PLAIN, {'load_from': weights, 'resume': True}),
        str(tmp_path / 'new'),
        resume='auto',
    )
    assert (cfg.load_from, cfg.get('resume')) == (weights, False)
    folder = unfinished(finished, tmp_path / 'run[1]')
    (folder / 'last_checkpoint').unlink()
    cfg = configure_run(
        load_config(PLAIN, {'load_from': weights}), str(folder), resume='auto'
    )
    assert (cfg.load_from, cfg.resume) == (weights, 'auto')
    assert find_checkpoint(str(folder)).path == str(folder / 'epoch_1.pth')


def test_a_resumed_run_leaves_where_it_began_in_its_config(finished, tmp_path):
    weights = str(finished / 'epoch_2.pth')
    folder = unfinished(finished, tmp_path / 'run')
    forget_the_last_run()
    cfg = config(folder, {'load_from': weights}, PLAIN)
    runner = train(configure_run(cfg, str(folder), resume='auto'))
    assert runner._load_from == str(folder / 'epoch_1.pth')
    again = load_config(str(folder / 'wrn10-1_digits.py'))
    # To the hosts' tools resume would mean to go on from load_from.
    assert (again.load_from, again.resume) == (weights, False)
    forget_the_last_run()
    other = train(configure_run(again, str(tmp_path / 'other')))
    assert (other._load_from, other._resume) == (weights, False)


def test_training_from_a_thread_and_signals_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    run(tmp_path / 'main', path=PLAIN)
    assert signal.getsignal(signal.SIGTERM) is before
    errors = []

    def work():
        try:
            run(tmp_path / 'thread', path=PLAIN)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert (tmp_path / 'thread/epoch_2.pth').is_file()


@pytest.mark.parametrize(
    ('launcher', 'holds'), [('mpi', False), ('slurm', True), ('none', True)]
)
def test_the_launcher_s_own_number_of_the_process_counts(
    tmp_path, monkeypatch, launcher, holds
):
    """Within a Slurm job all processes of mpirun have its number."""
    monkeypatch.setenv('SLURM_PROCID', '0')
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '1')
    with hold_work_dir(str(tmp_path), launcher):
        assert (tmp_path / LOCK).exists() == holds


def test_a_run_that_was_killed_in_its_last_validation_does_it(finished, tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copy(finished / 'epoch_2.pth', folder)
    run(folder, path=PLAIN, resume='auto')
    logs = [path.read_text() for path in folder.glob('*/vis_data/scalars.json')]
    assert any('accuracy/top1' in log for log in logs)


@pytest.mark.parametrize(
    ('path', 'options', 'message'),
    [
        (
            PLAIN,
            {'optim_wrapper.optimizer': dict(_delete_=True, type='Adam', lr=0.1)},
            'optimiser SGD, the config has Adam',
        ),
        ('configs/digits/frskd_wrn10-1_digits.py', {}, 'method None, .* has FRSKD'),
    ],
)
def test_resuming_another_run_is_refused(finished, tmp_path, path, options, message):
    folder = unfinished(finished, tmp_path / 'run')
    with pytest.raises(ValueError, match=f'{message}.*load_from'):
        run(folder, options, path=path, resume='auto')


def test_resuming_with_another_batch_size_says_so(finished, tmp_path, capfd):
    folder = unfinished(finished, tmp_path / 'run')
    options = {'train_dataloader.batch_size': 4, 'log_level': 'WARNING'}
    run(folder, options, path=PLAIN, resume='auto')
    found = capfd.readouterr()
    message = 'the batch size (over all processes) is 4, it was 8'
    assert message in found.out + found.err


def test_an_exported_student_is_not_resumed(finished, tmp_path):
    path = tmp_path / 'student.pth'
    save_checkpoint(dict(state_dict=state(finished, 'epoch_1.pth')[0]), str(path))
    with pytest.raises(ValueError, match="no training checkpoint.*'meta'"):
        run(tmp_path / 'run', path=PLAIN, resume=str(path))


def test_a_loader_without_a_batch_is_refused(tmp_path):
    options = {'train_dataloader.batch_size': 99, 'train_dataloader.drop_last': True}
    with pytest.raises(ValueError, match='no batch: .*40 samples.*drop_last leaves'):
        run(tmp_path, options, path=PLAIN)


HOLDER = (
    'import sys, time\n'
    'from frskd_mm.engine.work_dir_lock import hold_work_dir\n'
    'with hold_work_dir(sys.argv[1]):\n'
    '    print("held", flush=True)\n'
    '    time.sleep(60)\n'
)


def test_a_second_training_in_a_work_directory_is_refused(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, '-c', HOLDER, str(tmp_path)],
        cwd=REPO,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == 'held\n'
        with pytest.raises(
            BlockingIOError, match=f'process {holder.pid} on .*work-dir'
        ):
            train(config(tmp_path, path=PLAIN))
    finally:
        holder.kill()
        holder.wait()
    # The file of the dead process is still there, and does not refuse.
    assert json.loads((tmp_path / LOCK).read_text())['process'] == holder.pid
    with hold_work_dir(str(tmp_path)) as lock:
        assert not lock.was_finished


def test_processes_that_outlive_the_training_hold_nothing(tmp_path):
    with hold_work_dir(str(tmp_path)):
        pid = os.fork()  # as the data loader's workers are
        if pid == 0:
            time.sleep(30)
            os._exit(0)
    try:
        code = HOLDER.replace('time.sleep(60)', 'pass')
        done = subprocess.run(
            [sys.executable, '-c', code, str(tmp_path)],
            cwd=REPO,
            capture_output=True,
            text=True,
        )
        assert done.stdout == 'held\n', done.stderr
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


class Spoil(Hook):
    """Make what a step works on NaN, at some iterations."""

    priority = 'VERY_HIGH'

    def __init__(self, what, at):
        self.what, self.at = what, at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter not in self.at:
            return
        if self.what == 'images':
            data_batch['inputs'] = data_batch['inputs'].float()
            data_batch['inputs'][0] = math.nan
        elif self.what == 'gradient':
            weight = runner.model.backbone.stem.weight
            handle = weight.register_hook(lambda g: (handle.remove(), g * math.inf)[1])
        elif self.what == 'weights':
            with torch.no_grad():
                runner.model.backbone.stem.weight[0] = math.inf


def spoilt(folder, what, at, options=None, path=PLAIN):
    """Train with a fault."""
    forget_the_last_run()
    runner = build_runner(config(folder, options, path))
    runner.register_hook(Spoil(what, at))
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('what', 'path', 'message'),
    [
        ('images', PLAIN, r'Iteration 7: loss is NaN .* batch: sample_idx \d+, sample'),
        ('weights', CONFIG, r'Iteration 7: student.loss, self_teacher.loss, loss_kd'),
        ('gradient', PLAIN, 'Iteration 7: the gradient of backbone.stem.weight'),
    ],
)
def test_a_value_that_is_not_finite_stops_the_run(tmp_path, what, path, message):
    with pytest.raises(FloatingPointError, match=message) as caught:
        spoilt(tmp_path, what, [6], path=path)
    assert "non_finite='skip'" in str(caught.value)
    assert not (tmp_path / 'epoch_2.pth').exists()
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')


@pytest.mark.parametrize('what', ['images', 'gradient'])
def test_a_step_that_is_skipped_leaves_no_trace(tmp_path, what):
    runner = spoilt(tmp_path, what, [6], dict(non_finite='skip'))
    weights, optimizer = state(tmp_path, 'epoch_2.pth')
    assert all(value.isfinite().all() for value in weights.values())
    assert [
        hook.skipped for hook in runner.hooks if isinstance(hook, NonFiniteHook)
    ] == [1]
    # Statistics of norms, too: 9 batches of 10 were counted.
    counts = {int(v) for n, v in weights.items() if 'num_batches_tracked' in n}
    assert counts == {9}


def test_no_step_is_made_where_all_parts_of_it_are_skipped(tmp_path, monkeypatch):
    """A GradScaler refuses one without gradients."""
    original = OptimWrapper.step

    def step(wrapper, **kwargs):
        groups = wrapper.param_groups
        assert any(p.grad is not None for group in groups for p in group['params'])
        original(wrapper, **kwargs)

    monkeypatch.setattr(OptimWrapper, 'step', step)
    options = {'non_finite': 'skip', 'optim_wrapper.accumulative_counts': 2}
    runner = spoilt(tmp_path, 'images', [6, 7], options)
    assert runner.iter == 10


def test_skipping_without_end_stops(tmp_path):
    with pytest.raises(FloatingPointError, match='10 steps in a row'):
        spoilt(
            tmp_path,
            'images',
            range(20),
            {'non_finite': 'skip', 'train_cfg.max_epochs': 4},
        )


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    options = {'non_finite': 'go on', 'default_hooks.checkpoint.max_keep_ckpts': 1}
    spoilt(
        tmp_path,
        'weights',
        [6],
        {**options, 'default_hooks.checkpoint.save_best': 'auto'},
    )
    assert not (tmp_path / 'epoch_2.pth').exists()
    for name in ('epoch_1.pth', 'last_checkpoint'):
        assert (tmp_path / name).exists()
    weights, _ = state(tmp_path, 'epoch_1.pth')
    assert all(value.isfinite().all() for value in weights.values())


def test_another_rule_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'stop', 'skip', 'go on', not 'ignore'"):
        build_runner(config(tmp_path, dict(non_finite='ignore')))


BEST = {
    'default_hooks.checkpoint.save_best': 'accuracy/top1',
    'train_cfg.val_interval': 1,
}


def test_nothing_is_removed_before_its_successor_is_written(tmp_path, monkeypatch):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 1, **BEST}
    forget_the_last_run()
    runner = build_runner(config(tmp_path, options, PLAIN))
    original, present = Runner.save_checkpoint, []

    def save(self, *args, **kwargs):
        present.append(sorted(path.name for path in tmp_path.glob('*.pth')))
        if len(present) > 3:
            raise OSError('No space left on device')
        original(self, *args, **kwargs)

    monkeypatch.setattr(Runner, 'save_checkpoint', save)
    with pytest.raises(OSError, match='No space'):
        runner.train()
    # The first epoch, the best, and the first again; the second fails.
    best = 'best_accuracy_top1_epoch_1.pth'
    assert present == [
        [],
        ['epoch_1.pth'],
        [best, 'epoch_1.pth'],
        [best, 'epoch_1.pth'],
    ]
    assert any(isinstance(hook, SafeCheckpointHook) for hook in runner.hooks)


def go_on_from_the_first_epoch(folder, options, best):
    """Resume from a checkpoint that names a best one which all that comes beats."""
    path = folder / 'epoch_1.pth'
    loaded = torch.load(path, weights_only=False)
    loaded['message_hub']['runtime_info'].update(best_score=-1.0, best_ckpt=str(best))
    save_checkpoint(loaded, str(path))
    (folder / 'epoch_2.pth').unlink()
    (folder / 'last_checkpoint').unlink()
    forget_the_last_run()
    cfg = config(folder, options, PLAIN)
    train(configure_run(cfg, str(folder), resume=str(path)))


def test_a_branch_of_another_run_removes_nothing_there(tmp_path):
    trunk, branch = tmp_path / 'trunk', tmp_path / 'branch'
    run(trunk, BEST, path=PLAIN)
    best = sorted(trunk.glob('best_*'))
    shutil.copytree(trunk, branch)
    go_on_from_the_first_epoch(branch, BEST, best[0])
    assert sorted(trunk.glob('best_*')) == best
    assert list(branch.glob('best_*'))


def test_the_best_one_is_replaced_however_its_folder_was_written(tmp_path, monkeypatch):
    run(tmp_path / 'run', BEST, path=PLAIN)
    (best,) = (tmp_path / 'run').glob('best_*')
    old = best.rename(best.with_name('best_accuracy_top1_epoch_9.pth'))
    monkeypatch.chdir(tmp_path)
    go_on_from_the_first_epoch(tmp_path / 'run', BEST, old.relative_to(tmp_path))
    (best,) = (tmp_path / 'run').glob('best_*')
    assert best != old
