"""tools/compare.py: a real grid, interrupted, failed, repeated and reported."""

import html
import json
import os
import re
import shutil
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from mmengine.config import Config
from mmengine.fileio import load

from frskd_mm.engine import configure_run, evaluate, load_config, method_names, wrap
from frskd_mm.lab.compare import Run, plan_grid, run_grid, write_report
from frskd_mm.lab.compare.grid import (
    _ending,
    _Progress,
    _start,
    find_differences,
    method_of,
)
from frskd_mm.lab.compare.length import lengthen
from frskd_mm.lab.compare.lock import hold
from frskd_mm.lab.compare.quality import with_outputs_below
from frskd_mm.lab.compare.run import ProgressHook, main, merge_scalars, typical_step
from frskd_mm.lab.visualization.learning_curves import mean_curve, read_curves

OPTIONS = {
    'train_cfg.max_epochs': 3,
    'train_cfg.val_interval': 1,
    'train_dataloader.batch_size': 10,
    'train_dataloader.dataset.num_per_class': 10,
    'test_dataloader.dataset.num_per_class': 5,
    'val_dataloader.dataset.num_per_class': 5,
    'default_hooks.checkpoint.interval': 1,
    'default_hooks.logger.interval': 2,
}

#: Bytes, more than a process here needs: as if the one that was killed had.
PEAK_BEFORE = 2**40


def write_method(folder, name, *lines):
    path = folder / f'{name}.py'
    path.write_text('\n'.join(lines) + '\n')
    return str(path)


@pytest.fixture(scope='module', autouse=True)
def one_thread():
    """Let all runs sum in one order, so that interrupted ones end the same."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
            patch.setenv(name, '1')
        yield


@pytest.fixture(scope='module')
def config():
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    return os.path.join(root, 'configs', 'digits', 'wrn10-1_digits.py')


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    return tmp_path_factory.mktemp('compare')


@pytest.fixture(scope='module')
def grid(config, out):
    """Run a grid whose first run is killed once on the way."""
    runs = plan_grid(config, ['ce', 'frskd'], [0, 1], str(out), OPTIONS)
    process = _start(runs[0], single_threaded=True)
    checkpoint = out / 'none' / 'seed0' / 'work_dir' / 'last_checkpoint'
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.poll() is None, runs[0].last_log_lines()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not runs[0].finished
    peak = out / 'none' / 'seed0' / 'peak_memory.txt'
    peak.write_text(str(int(peak.read_text()) + PEAK_BEFORE))
    assert run_grid(runs) == [], runs[0].last_log_lines()
    return runs


@pytest.fixture(scope='module')
def failed(config, out, grid):
    """Add a method that fails: its teacher was not trained."""
    method = write_method(
        out,
        'kd',
        "_base_ = 'frskd_mm::_base_/methods/kd_cls.py'",
        f'distiller = dict(teacher={config!r}, checkpoint={str(out / "no.pth")!r})',
    )
    runs = plan_grid(config, [method], [0], str(out), OPTIONS)
    assert run_grid(runs) == runs
    return runs


def scalars(run):
    with open(os.path.join(run.folder, 'scalars.json')) as file:
        return [json.loads(line) for line in file]


def test_methods_and_seeds_cross(grid):
    assert [(run.method, run.seed) for run in grid] == [
        ('none', 0),
        ('frskd', 0),
        ('none', 1),
        ('frskd', 1),
    ]
    assert all(run.finished and run.progress == 1.0 for run in grid)
    used = [Config.fromfile(os.path.join(run.folder, 'config.py')) for run in grid]
    assert [cfg.randomness.seed for cfg in used] == [0, 0, 1, 1]
    assert [cfg.model.type for cfg in used[:2]] == [
        'ImageClassifier',
        'frskd_mm.Distilled',
    ]
    first_losses = [
        next(x['loss'] for x in scalars(run) if 'loss' in x) for run in grid
    ]
    assert len(set(first_losses)) == 4


def test_a_killed_run_goes_on_from_its_checkpoint(grid):
    with open(os.path.join(grid[0].folder, 'log.txt')) as file:
        assert re.search(r'resumed epoch: [1-3]\b', file.read())
    killed, whole = (
        [('loss' in line, line['step']) for line in scalars(run)]
        for run in (grid[0], grid[2])
    )
    assert len(whole) == 3 + 15
    # Killed before the validation that follows the checkpoint, it may lack that.
    assert set(whole) - set(killed) <= {(False, 1), (False, 2)}
    assert sorted(set(killed)) == killed


@pytest.mark.parametrize(
    ('left', 'resumed'),
    [('epoch_2', 2), pytest.param(None, 0, marks=pytest.mark.slow)],
)
def test_a_run_goes_on_although_its_last_checkpoint_is_gone(
    grid, tmp_path, left, resumed
):
    done, folder = Path(grid[0].folder), tmp_path / 'none' / 'seed0'
    run = grid[0]._replace(folder=str(folder))
    work_dir = folder / 'work_dir'
    work_dir.mkdir(parents=True)
    shutil.copy(done / 'config.py', folder)
    if left:
        shutil.copy(done / 'work_dir' / f'{left}.pth', work_dir)
    shutil.copy(done / 'work_dir' / 'epoch_2.pth', work_dir / 'best_x_epoch_2.pth')
    (work_dir / 'epoch_3.pth').write_bytes(b'PK')  # killed while it was written
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'epoch_1.pth'))
    assert run_grid([run]) == [], run.last_log_lines()
    log = (folder / 'log.txt').read_text()
    assert re.findall(r'resumed epoch: (\d)', log) == [str(resumed)] * bool(resumed)
    whole, anew = (
        json.loads((path / 'result.json').read_text())['metrics']
        for path in (done, folder)
    )
    assert anew == whole


def test_the_peak_of_memory_is_that_of_all_processes(grid):
    killed, whole = (
        json.loads(Path(run.folder, 'result.json').read_text())['peak_memory_mb']
        for run in (grid[0], grid[2])
    )
    assert killed > PEAK_BEFORE / 2**20 > whole


def test_self_teachers_are_measured_beside_their_students(grid, tmp_path):
    results = [run.read_result() for run in grid]
    assert ['self_teacher' in result for result in results] == [False, True] * 2
    folder, result = Path(grid[1].folder), results[1]
    cfg = Config.fromfile(str(folder / 'config.py'))
    configure_run(cfg, work_dir=str(tmp_path))
    checkpoint = str(folder / 'work_dir/epoch_3.pth')
    metrics = evaluate(cfg, checkpoint, self_teacher=True)
    assert result['self_teacher']['accuracy/top1'] == metrics['accuracy/top1']
    student, teacher = (
        np.load(folder / f'{name}predictions.npz') for name in ('', 'self_teacher_')
    )
    for arrays, numbers in (
        (student, result['metrics']),
        (teacher, result['self_teacher']),
    ):
        assert 100 * arrays['correct'].mean() == pytest.approx(numbers['accuracy/top1'])
    agree = (student['predicted'] == teacher['predicted']).mean()
    assert 0 < result['self_teacher']['agreement'] == agree < 1
    for run in grid:
        curves = read_curves(f'{run.folder}/scalars.json', 'accuracy/top1')
        assert curves.epochs[-1] == 3
        assert bool(curves.teacher_epochs) == (run.method == 'frskd')
    assert curves.teacher_epochs == (1, 2, 3)
    # Validation and test data are the same here.
    measured = results[-1]['self_teacher']['accuracy/top1']
    assert curves.teacher_metrics[-1] == pytest.approx(measured)


def test_seeds_are_drawn_where_all_have_points():
    assert mean_curve([([2, 4], [1.0, 0.5]), ([2, 4, 6], [3.0, 2.0, 1.0])]) == (
        [2, 4],
        [2.0, 1.25],
    )
    # A detector's first validations may have no AP.
    assert mean_curve([([1], [5.0]), ([2], [6.0])]) == ([], [])


def test_a_finished_run_is_not_repeated(grid):
    files = [os.path.join(run.folder, 'log.txt') for run in grid]
    before = [os.stat(path).st_mtime_ns for path in files]
    assert run_grid(grid) == []
    assert [os.stat(path).st_mtime_ns for path in files] == before


def test_the_student_that_is_tested_is_exported(config, tmp_path):
    """Stopped before the first checkpoint, with averaged weights as validated."""
    calibration = dict(type='frskd_mm.Calibration', prefix='compare')
    stop = dict(type='EarlyStoppingHook', monitor='compare/NLL', rule='less')
    options = {
        **OPTIONS,
        'default_hooks.checkpoint.interval': 3,
        'val_evaluator': [calibration],
        'custom_hooks': [
            dict(type='EMAHook', momentum=0.1),
            dict(**stop, stopping_threshold=1000.0),
        ],
    }
    (run,) = plan_grid(config, ['frskd'], [0], str(tmp_path), options)
    assert run_grid([run]) == [], run.last_log_lines()
    folder = Path(run.folder)
    assert not list(folder.glob('work_dir/*.pth'))
    (validated,) = [x['compare/NLL'] for x in scalars(run) if 'compare/NLL' in x]
    tested = json.loads((folder / 'result.json').read_text())['metrics']['compare/NLL']
    assert tested == pytest.approx(validated, rel=1e-6)

    cfg = Config.fromfile(str(folder / 'student.py'))
    cfg.test_evaluator, cfg.custom_hooks = calibration, []
    configure_run(cfg, work_dir=str(tmp_path / 'test'))
    exported = evaluate(cfg, str(folder / 'student.pth'))['compare/NLL']
    assert exported == pytest.approx(tested, rel=1e-6)
    saved = torch.load(folder / 'student.pth', weights_only=False)
    assert saved['meta']['epoch'] == 1


@pytest.mark.parametrize(
    'backends', [None, [], [dict(type='TensorboardVisBackend')]], ids=str
)
def test_a_run_is_logged_whatever_else_its_config_logs_to(
    config, tmp_path, monkeypatch, backends
):
    """Modules of the working directory are found, but stand for no others."""
    (tmp_path / 'random.py').write_text('')
    (tmp_path / 'my_own.py').write_text('')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path, str(tmp_path)])
    visualizer = dict(type='Visualizer', vis_backends=backends)
    options = {
        **OPTIONS,
        'train_cfg.max_epochs': 1,
        'visualizer': visualizer,
        'custom_imports': dict(imports=['my_own']),
    }
    (run,) = plan_grid(config, ['ce'], [0], str(tmp_path / 'out'), options)
    assert run_grid([run]) == [], run.last_log_lines()
    assert [line for line in scalars(run) if 'loss' in line]


def test_runs_share_no_folder_of_checkpoints(config, tmp_path):
    """MMEngine would call it like the work directory, which all runs call alike."""
    shared = tmp_path / 'shared'
    options = {
        **OPTIONS,
        'train_cfg.max_epochs': 1,
        'default_hooks.checkpoint.out_dir': str(shared),
    }
    (run,) = plan_grid(config, ['ce'], [0], str(tmp_path / 'out'), options)
    assert run_grid([run]) == [], run.last_log_lines()
    assert not shared.exists()
    assert Path(run.folder, 'work_dir', 'epoch_1.pth').is_file()
    log = Path(run.folder, 'log.txt').read_text()
    assert f'not in default_hooks.checkpoint.out_dir={shared}' in log


def test_runs_share_no_files_of_evaluators(config, tmp_path):
    """The user's file, the student's and the self-teacher's are three."""
    mine = tmp_path / 'mine.pkl'
    mine.write_text('mine')
    dump = dict(type='DumpResults', out_file_path=str(mine))
    options = {
        **OPTIONS,
        'train_cfg.max_epochs': 1,
        'val_evaluator': [dict(type='Accuracy'), dump],
        'test_evaluator': [dict(type='Accuracy'), dump],
    }
    (run,) = plan_grid(config, ['frskd'], [0], str(tmp_path / 'out'), options)
    assert mine.read_text() == 'mine'
    assert run_grid([run]) == [], run.last_log_lines()
    assert mine.read_text() == 'mine'
    (student,) = Path(run.folder).rglob('mine.pkl')
    (teacher,) = Path(run.folder).rglob('self_teacher_mine.pkl')
    scores = [
        np.array([sample['pred_score'].numpy() for sample in load(path)])
        for path in (student, teacher)
    ]
    tested = np.load(Path(run.folder, 'predictions.npz'))['predicted']
    assert (scores[0].argmax(axis=1) == tested).all()
    assert not np.allclose(*scores)


@pytest.mark.parametrize('wrapped', [False, True], ids=['list', 'Evaluator'])
def test_outputs_of_evaluators_are_moved(tmp_path, wrapped):
    metrics = [
        dict(type='A', outfile_prefix='a/bbox', metric='bbox', out_file=None),
        dict(type='B', outfile_prefix='b/bbox', seg_out_dir='../c/', output_dir=''),
        dict(type='C', out_file_path='/tmp/d.pkl'),
    ]
    evaluator = dict(type='Evaluator', metrics=metrics) if wrapped else metrics
    moved = with_outputs_below(evaluator, str(tmp_path / 'x'))
    assert metrics[0]['outfile_prefix'] == 'a/bbox'
    first, second, third = moved['metrics'] if wrapped else moved
    assert first == {**metrics[0], 'outfile_prefix': str(tmp_path / 'x/a/bbox')}
    assert second['outfile_prefix'] == str(tmp_path / 'x/b/bbox')
    assert (second['seg_out_dir'], second['output_dir']) == (str(tmp_path / 'x/c'), '')
    assert third['out_file_path'] == str(tmp_path / 'x/tmp/d.pkl')


def test_report_has_every_part(grid, failed, out):
    table = write_report([*grid, *failed], str(out), 'the command')
    header, _, *rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
    ]
    none, frskd, kd = (dict(zip(header, row)) for row in rows)
    results = json.loads((out / 'results.json').read_text())
    assert [(r['method'], r['seed']) for r in results] == [
        (run.method, run.seed) for run in grid
    ]
    accuracy = [r['metrics']['accuracy/top1'] for r in results]
    gains = [accuracy[1] - accuracy[0], accuracy[3] - accuracy[2]]
    assert frskd['difference [95 % interval]'].startswith(f'{sum(gains) / 2:+.2f} [')
    assert frskd['difference [95 % interval]'].endswith('(n=2)')
    assert none['difference [95 % interval]'] == '–'
    assert (none['step time'], none['added in training']) == ('×1.00', '0')
    assert re.fullmatch(r'×1\.00 \(\d+ MB\)', none['memory'])
    memory = [r['peak_memory_mb'] for r in results]
    ratio = (memory[1] / memory[0] + memory[3] / memory[2]) / 2
    assert frskd['memory'].startswith(f'×{ratio:.2f} (')
    assert int(frskd['added in training'].replace(',', '')) > 0
    assert none['added in use'] == frskd['added in use'] == '0'
    assert kd['n'] == '0'
    for name in ('NLL', 'ECE (%)', 'AURC (‰)'):
        assert float(none[name].split()[0]) > 0

    markdown, page = ((out / f'report.{kind}').read_text() for kind in ('md', 'html'))
    assert table in markdown
    teachers = re.search(r'^## Self-teachers\n\n(.*?)\n\n', markdown, re.M | re.S)[1]
    assert [line.split()[1] for line in teachers.splitlines()[2:]] == ['frskd']
    for text in ('the command', 'kd, seed 0', 'n paired seeds', 'optim_wrapper'):
        assert text in markdown
        assert text in page
    for picture in ('learning_curves.png', 'reliability.png'):
        assert (out / picture).stat().st_size > 10_000
        assert picture in markdown
    assert page.count('src="data:image/png;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_report_keeps_what_earlier_commands_trained(grid, tmp_path):
    """A method that is added alone must not get an interval for one."""
    out = tmp_path / 'copy'
    shutil.copytree(grid[0].out, out)
    shutil.copytree(out / 'frskd', out / 'byot')
    (out / 'none' / 'notes').mkdir()
    shutil.copytree(out / 'frskd' / 'seed0', out / 'frskd' / 'seed7')  # of seed 0
    runs = [Run('byot', seed, str(out / 'byot' / f'seed{seed}')) for seed in (0, 1)]
    table = write_report(runs, str(out), 'the last command')
    assert 'corrected for 2 methods' in table
    results = json.loads((out / 'results.json').read_text())
    assert [(r['method'], r['seed']) for r in results] == [
        (method, seed) for method in ('byot', 'frskd', 'none') for seed in (0, 1)
    ]
    markdown = (out / 'report.md').read_text()
    assert 'Earlier commands trained frskd, none in this folder.' in markdown


def test_the_report_shows_names_as_they_are(grid, tmp_path):
    name = '<b>$x_{$ | `y*'
    run = grid[0]._replace(method=name, folder=str(tmp_path / 'run' / 'seed0'))
    shutil.copytree(grid[0].folder, run.folder)
    failed = Run('a', 0, str(tmp_path / 'a' / 'seed0'))
    os.makedirs(failed.folder)
    Path(failed.folder, 'log.txt').write_text('```\n<i>log</i>\n')
    shutil.copy(os.path.join(grid[0].out, 'recipe.py'), tmp_path)
    write_report([run, failed], str(tmp_path), '')
    markdown, page = (
        (tmp_path / f'report.{kind}').read_text() for kind in ('md', 'html')
    )
    shown = MarkdownIt('commonmark').enable('table').render(markdown)
    cell = html.escape(name)
    for text in (shown, page):
        assert f'<td>{cell}</td>' in text
        assert '<b>' not in text
        assert '<i>' not in text
    (code,) = re.findall('<pre>.*?</pre>', shown, re.DOTALL)[:1]
    assert '```\n&lt;i&gt;log' in code
    assert (tmp_path / 'learning_curves.png').stat().st_size > 10_000


def test_a_failed_run_shows_the_end_of_its_log(failed):
    assert 'No checkpoint of the teacher' in failed[0].last_log_lines()


def test_how_a_killed_run_ended_is_told():
    assert _ending(-9) == 'was killed by SIGKILL, often for want of memory'
    assert _ending(-15) == 'was killed by SIGTERM'
    assert _ending(-35) == 'was killed by signal 35'
    assert _ending(3) == 'failed with exit code 3'


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'optim_wrapper.optimizer.lr': 0.05},
            r'recipe\.py.*\n  optim_wrapper\.optimizer\.lr: 0\.1 \| 0\.05\n',
        ),
        (
            {'default_hooks.extra': dict(type='SyncBuffersHook')},
            r"default_hooks\.extra: \(absent\) \| {'type': 'SyncBuffersHook'}",
        ),
    ],
)
def test_another_recipe_is_refused(tmp_path, config, change, message):
    plan_grid(config, ['none'], [0], str(tmp_path), OPTIONS)
    plan_grid(config, ['none', 'label-smoothing'], [1], str(tmp_path), OPTIONS)
    with pytest.raises(ValueError, match=message):
        plan_grid(config, ['none'], [2], str(tmp_path), {**OPTIONS, **change})
    assert not (tmp_path / 'none' / 'seed2').exists()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            'optim_wrapper = dict(optimizer=dict(lr=0.01))',
            r'optim_wrapper\.optimizer\.lr: 0\.1 \| 0\.01\n',
        ),
        ('train_cfg = dict(max_epochs=50)', r'train_cfg\.max_epochs: 3 \| 50\n'),
        (
            'train_dataloader = dict(batch_size=7)',
            r'train_dataloader\.batch_size: 10 \| 7\n',
        ),
        (
            "test_dataloader = dict(dataset=dict(split='train'))",
            r"test_dataloader\.dataset\.split: 'test' \| 'train'\n",
        ),
        (
            'model = dict(student=dict(backbone=dict(widen_factor=2)))',
            r'model\.backbone\.widen_factor: 1 \| 2\n',
        ),
        (
            "dataset_wrapper = dict(type='RepeatDataset', times=2)",
            r"train_dataloader\.dataset\.type: .*Digits' \| 'RepeatDataset'\n",
        ),
        (
            "optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'head': dict()}))",
            r'custom_keys\.head: \(absent\) \| {}\n',
        ),
    ],
)
def test_a_method_that_changes_the_recipe_is_refused(tmp_path, config, change, message):
    base = "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'"
    method = write_method(tmp_path, 'mine', base, change)
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match=f'mine changes the recipe(.|\n)*{message}'):
        plan_grid(config, ['ce', method], [0], str(out), OPTIONS)
    assert not out.exists()


def test_a_method_may_set_the_learning_rate_of_its_self_teacher(tmp_path, config):
    base = "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'"
    keys = "custom_keys={'distiller': dict(lr_mult=5)}"
    change = f'optim_wrapper = dict(paramwise_cfg=dict({keys}))'
    method = write_method(tmp_path, 'mine', base, change)
    (run,) = plan_grid(config, [method], [0], str(tmp_path / 'out'), OPTIONS)
    cfg = Config.fromfile(os.path.join(run.folder, 'config.py'))
    assert cfg.optim_wrapper.paramwise_cfg.custom_keys.distiller.lr_mult == 5


def test_a_whole_config_is_a_method_for_its_own_student_alone(tmp_path, config):
    folder = os.path.dirname(config)
    whole = os.path.join(folder, 'frskd_wrn10-1_digits.py')
    plan_grid(config, ['ce', whole], [0], str(tmp_path / 'a'))
    whole = os.path.join(folder, '..', 'mmpretrain', 'frskd_wrn16-2_1xb128_cifar100.py')
    with pytest.raises(ValueError, match=r'model\.backbone\.depth: 10 \| 16\n'):
        plan_grid(config, ['ce', whole], [0], str(tmp_path / 'b'))


@pytest.mark.parametrize('method', method_names('cls'))
def test_the_methods_here_change_no_recipe(tmp_path, config, method):
    name = method
    if method.startswith('kd'):
        # Its student is the teacher, and returns several levels.
        teacher = config.replace('wrn10-1', 'frskd_wrn10-1')
        method = write_method(
            tmp_path,
            method,
            f"_base_ = 'frskd_mm::_base_/methods/{method}_cls.py'",
            f'distiller = dict(teacher={teacher!r}, checkpoint="teacher.pth")',
        )
    (run,) = plan_grid(config, [method], [0], str(tmp_path / 'out'), OPTIONS)
    assert run.method == name


def test_settings_of_one_method_are_given_in_a_file(tmp_path, config):
    method = write_method(
        tmp_path,
        'ps-kd-100',
        "_base_ = 'frskd_mm::_base_/methods/ps-kd_cls.py'",
        'distiller = dict(num_samples=100)',
    )
    (run,) = plan_grid(config, [method], [0], str(tmp_path / 'a'), OPTIONS)
    cfg = Config.fromfile(os.path.join(run.folder, 'config.py'))
    assert cfg.model.distiller == dict(type='frskd_mm.PSKD', num_samples=100, alpha=0.8)
    options = {**OPTIONS, 'model.distiller.num_samples': 100}
    for methods in (['ce'], ['ps-kd']):
        with pytest.raises(ValueError, match=r"distiller = {'num_samples': 100}\."):
            plan_grid(config, methods, [0], str(tmp_path / 'b'), options)
    assert not (tmp_path / 'b').exists()


def test_a_method_that_cannot_be_built_is_refused(tmp_path, config):
    wrong = write_method(
        tmp_path,
        'wrong',
        "_base_ = 'frskd_mm::_base_/methods/tf-kd_cls.py'",
        'distiller = dict(alpha_t=0.5)',
    )
    out = tmp_path / 'out'
    for method, message in (
        ('kd', 'kd cannot be built: .*PretrainedTeacher needs a trained teacher'),
        (wrong, 'wrong cannot be built: .*no argument alpha_t'),
    ):
        with pytest.raises(ValueError, match=message):
            plan_grid(config, ['ce', method], [0], str(out), OPTIONS)
    assert not out.exists()


def test_a_run_of_other_settings_is_refused(tmp_path, config):
    (run,) = plan_grid(config, ['frskd'], [0], str(tmp_path), OPTIONS)
    path = os.path.join(run.folder, 'config.py')
    cfg = Config.fromfile(path)
    cfg.model.distiller.soft_label.loss_weight = 7.0
    cfg.dump(path)
    with pytest.raises(ValueError, match=r'soft_label\.loss_weight: 7\.0 \| 2\.0'):
        plan_grid(config, ['frskd'], [0], str(tmp_path), OPTIONS)


def test_wrong_input_is_named(tmp_path, config):
    with pytest.raises(ValueError, match="no method 'fskd'.*There are: none, .*frskd"):
        plan_grid(config, ['ce', 'fskd'], [0], str(tmp_path / 'a'), OPTIONS)
    assert not (tmp_path / 'a').exists()
    distilled = config.replace('wrn10-1', 'frskd_wrn10-1')
    with pytest.raises(ValueError, match='Give the config of its plain student'):
        plan_grid(distilled, ['ce'], [0], str(tmp_path / 'b'))
    runs = plan_grid(config, ['ce'], [0], str(tmp_path / 'c'), OPTIONS)
    with pytest.raises(ValueError, match='No run of .* has finished'):
        write_report(runs, str(tmp_path / 'c'), '')


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('none', 'the plain student is called so'),
        ('ce', 'the plain student is called so'),
        ('report.md', 'own files are called like that'),
        ('.lock', 'own files are called like that'),
        ('mine@2', 'what follows @ is the length of a training'),
        ('notes', 'there is a file'),
    ],
)
def test_a_method_file_cannot_stand_for_something_else(tmp_path, config, name, reason):
    method = write_method(
        tmp_path, name, "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'"
    )
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'notes').touch()
    with pytest.raises(ValueError, match=f'called {name!r}, but .*{reason}.* Rename'):
        plan_grid(config, ['none', method], [0], str(out), OPTIONS)
    assert [path.name for path in out.iterdir()] == ['notes']


def test_a_method_file_may_be_called_lock(tmp_path, config):
    method = write_method(
        tmp_path, 'lock', "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'"
    )
    out = tmp_path / 'out'
    (run,) = plan_grid(config, [method], [0], str(out), OPTIONS)
    with hold(str(out)):
        assert os.path.isfile(os.path.join(run.folder, 'config.py'))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(seeds=[0, -1]), 'Seeds are whole numbers from 0 to .*, not -1'),
        (dict(seeds=[2**31]), f'not {2**31}'),
        (dict(seeds=[]), 'at least one, not none'),
        (
            dict(options={'optim_wrapper.optimizer.type': 'SDG'}),
            r"no optimiser 'SDG', .*optimizer\.type names\. .*SGD",
        ),
        (
            dict(options={'optim_wrapper.optimizer.lr': -0.1}),
            'optim_wrapper cannot be built.*Invalid learning rate: -0.1',
        ),
        (
            dict(options={'param_scheduler': [dict(type='MultiStepLR', step=[1])]}),
            "param_scheduler cannot be built.*'step'",
        ),
        (dict(options={'optim_wrapper': None}), 'has no optim_wrapper'),
        (dict(options={'train_cfg': None}), 'has no train_cfg'),
        (
            dict(options={'default_hooks.timer': None}),
            'timer=None, but .* a step costs',
        ),
        (dict(options={'runner_type': 'FlexibleRunner'}), "MMEngine's Runner"),
        (dict(options={'strategy': dict(type='DDPStrategy')}), "MMEngine's Runner"),
        (
            dict(metric='mIoU'),
            'gave no mIoU. Name one of these with --metric: accuracy/top1, compare/',
        ),
        (
            dict(options={'test_evaluator': [dict(type='ConfusionMatrix')]}),
            'no metrics at all|gave no metric that is known',
        ),
    ],
)
def test_what_would_end_a_run_is_found_before_any(tmp_path, config, change, message):
    out = tmp_path / 'out'
    options = {**OPTIONS, **change.pop('options', {})}
    arguments = {'methods': ['ce', 'frskd'], 'seeds': [0], **change}
    with pytest.raises((ValueError, KeyError), match=message):
        plan_grid(config, out=str(out), options=options, **arguments)
    assert not out.exists()


def test_progress_is_told_in_lines_where_no_bar_can_be_drawn(tmp_path, capsys):
    runs = [Run('[b]frskd', seed, str(tmp_path / str(seed))) for seed in range(4)]
    with _Progress(runs) as progress:
        progress.show(runs[:1])
        assert capsys.readouterr().out == ''
        (tmp_path / '0').mkdir()
        for done in ('0.5', '1.0'):
            (tmp_path / '0' / 'progress.txt').write_text(done)
            progress.shown = float('-inf')
            progress.show(runs[:1])
        progress.say('[b]frskd, seed 0: finished')
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == '12 % of 4 runs; time left: not known yet; now [b]frskd seed 0'
    assert second == '25 % of 4 runs; time left: 0 min; now [b]frskd seed 0'
    assert last == '[b]frskd, seed 0: finished'


def test_names_of_methods():
    given = ('ce', ' frskd_f', 'label_smoothing', 'my_methods/cs_kd.py', 'ce@1.50')
    assert [method_of(text) for text in given] == [
        'none',
        'frskd-f',
        'label-smoothing',
        'my_methods/cs_kd.py',
        'none@1.5',
    ]


def test_a_method_may_train_longer(tmp_path, config):
    options = {
        **OPTIONS,
        'train_cfg.max_epochs': 10,
        'param_scheduler': [
            dict(type='LinearLR', start_factor=0.1, end=2),
            dict(type='CosineAnnealingLR', begin=2, end=10, T_max=8),
            dict(type='MultiStepLR', milestones=[4, 8], gamma=0.5),
        ],
    }
    method = write_method(
        tmp_path, 'mine', "_base_ = 'frskd_mm::_base_/methods/frskd_cls.py'"
    )
    runs = plan_grid(
        config, ['ce', 'ce@1.5', f'{method}@0.5'], [0], str(tmp_path / 'a'), options
    )
    assert [run.method for run in runs] == ['none', 'none@1.5', 'mine@0.5']
    plain, longer, shorter = (
        Config.fromfile(os.path.join(run.folder, 'config.py')) for run in runs
    )
    assert [cfg.train_cfg.max_epochs for cfg in (plain, longer, shorter)] == [10, 15, 5]
    warmup, cosine, steps = longer.param_scheduler
    assert (warmup.end, cosine.begin, cosine.end, cosine.T_max) == (3, 3, 15, 12)
    assert steps.milestones == [6, 12]
    differences = find_differences(plain.to_dict(), longer.to_dict())
    assert {line.split('.')[0] for line in differences} == {
        'train_cfg',
        'param_scheduler',
    }
    assert shorter.model.type == 'frskd_mm.Distilled'


def test_a_short_warm_up_survives_a_shorter_training(config):
    cfg = load_config(config)
    cfg.train_cfg.max_epochs = 12
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.1, begin=0, end=1),
        dict(type='CosineAnnealingLR', begin=1, end=12, T_max=11),
        dict(type='StepLR', step_size=2),
    ]
    quarter = lengthen(cfg, 0.25)
    assert quarter.train_cfg.max_epochs == 3
    warmup, cosine, steps = quarter.param_scheduler
    assert (warmup.begin, warmup.end) == (0, 1)
    assert (cosine.begin, cosine.end, cosine.T_max) == (1, 3, 2)
    assert steps.step_size == 1


def test_the_last_steps_of_the_learning_rate_survive_rounding(config):
    cfg = load_config(config)
    cfg.train_cfg.max_epochs = 12
    cfg.param_scheduler = dict(
        one=[dict(type='MultiStepLR', milestones=[8, 11])],
        other=dict(type='MultiStepLR', milestones=[90], by_epoch=False),
    )
    quarter = lengthen(cfg, 0.25).param_scheduler
    assert quarter.one[0].milestones == [2, 2]
    assert quarter.other.milestones == [23]
    cfg.train_cfg.max_epochs = 10  # the second step is never reached
    half, more = (lengthen(cfg, factor).param_scheduler for factor in (0.5, 1.5))
    assert half.one[0].milestones == [4, 6]
    assert more.one[0].milestones == [12, 17]


def test_distillation_keeps_its_share_of_a_longer_training(config):
    cfg = wrap(load_config(config), 'frskd')
    cfg.model.distiller.weight_schedule = dict(begin=5, end=0.9, decay_begin=15)
    cfg.train_cfg.max_epochs = 20
    schedule = lengthen(cfg, 1.5).model.distiller.weight_schedule
    assert schedule == dict(begin=8, end=0.9, decay_begin=23)


@pytest.mark.parametrize('method', ['ce@', 'ce@fast', 'ce@0', 'ce@-1', 'ce@nan'])
def test_a_length_that_is_none_is_refused(tmp_path, config, method):
    with pytest.raises(ValueError, match=r'must be the factor on the length'):
        plan_grid(config, [method], [0], str(tmp_path / 'a'), OPTIONS)
    assert not (tmp_path / 'a').exists()


def test_a_length_needs_one_to_begin_with():
    with pytest.raises(ValueError, match=r'neither train_cfg\.max_epochs nor'):
        lengthen(Config(dict(train_cfg=None)), 2.0)


def test_differences_have_dotted_keys():
    there = dict(a=dict(b=[1, dict(c=2)]), d=(1, 2), only=1)
    now = dict(a=dict(b=[1, dict(c=3)]), d=(1, 2, 3), new=None)
    assert find_differences(there, now) == [
        'a.b.1.c: 2 | 3',
        'd: (1, 2) | (1, 2, 3)',
        'only: 1 | (absent)',
        'new: (absent) | None',
    ]
    assert find_differences(there, there) == []


def test_a_run_ends_with_its_grid(tmp_path):
    folder = str(tmp_path)
    ProgressHook(folder, os.getppid()).before_train_iter(None, 0)
    with pytest.raises(SystemExit, match='is gone'):
        ProgressHook(folder, os.getpid()).before_train_iter(None, 0)


def test_a_second_command_in_the_folder_is_refused(tmp_path, config):
    runs = plan_grid(config, ['ce'], [0], str(tmp_path), OPTIONS)
    with hold(str(tmp_path)):
        with pytest.raises(BlockingIOError, match='Another command is training in'):
            run_grid(runs)
        assert not os.path.exists(os.path.join(runs[0].folder, 'log.txt'))
    # As if the command had been killed: its run is still there.
    process = _start(runs[0], single_threaded=True)
    while not os.path.exists(os.path.join(runs[0].folder, 'work_dir')):
        assert process.poll() is None, runs[0].last_log_lines()
        time.sleep(0.1)
    with pytest.raises(BlockingIOError, match='Another command .*seed0'):
        run_grid(runs)
    process.kill()
    process.wait()
    with hold(runs[0].folder):
        pass


def test_a_run_of_a_killed_command_does_not_begin(tmp_path, config):
    (run,) = plan_grid(config, ['ce'], [0], str(tmp_path), OPTIONS)
    with pytest.raises(SystemExit, match='is gone'):
        main(run.folder, os.getpid())


def test_logs_of_an_interrupted_run_are_joined(tmp_path):
    logs = {
        '20260101': [
            dict(loss=3.0, step=1),
            dict(acc=1.0, step=1),
            dict(loss=2.0, step=2),
        ],
        '20260102': [dict(loss=2.5, step=2), dict(acc=2.0, step=2)],
    }
    for name, lines in logs.items():
        folder = tmp_path / 'work_dir' / name / 'vis_data'
        folder.mkdir(parents=True)
        # The last line as a kill may leave it.
        text = '\n'.join([*map(json.dumps, lines), '{"loss": 9.0, "st'])
        (folder / 'scalars.json').write_text(text)
    merge_scalars(str(tmp_path))
    lines = (tmp_path / 'scalars.json').read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        dict(acc=1.0, step=1),
        dict(acc=2.0, step=2),
        dict(loss=3.0, step=1),
        dict(loss=2.5, step=2),
    ]


def test_a_config_is_written_whole_or_not_at_all(tmp_path, config, monkeypatch):
    def be_killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, 'replace', be_killed)
    with pytest.raises(KeyboardInterrupt):
        plan_grid(config, ['ce'], [0], str(tmp_path), OPTIONS)
    monkeypatch.undo()
    assert not list(tmp_path.rglob('*.py'))
    plan_grid(config, ['ce'], [0], str(tmp_path), OPTIONS)


def test_label_smoothing_replaces_the_loss_alone(config):
    plain = load_config(config)
    cfg = wrap(plain, 'label-smoothing')
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1)
    assert plain.model.head.loss.type == 'CrossEntropyLoss'
    rest = deepcopy(cfg.model)
    rest.head.loss = plain.model.head.loss
    assert rest == plain.model

    with pytest.raises(ValueError, match="loss.type is 'LabelSmoothLoss'"):
        wrap(cfg, 'label-smoothing')
    with pytest.raises(ValueError, match='Remove model.distiller'):
        wrap(plain, 'label-smoothing', distiller=dict(neck=dict(width=1)))
    del plain.model.head['loss']  # the head's default is the cross-entropy
    assert wrap(plain, 'label-smoothing').model.head.loss == cfg.model.head.loss


def test_the_time_of_a_step_has_the_self_teachers_turns_in_it():
    assert typical_step([1.0, 9.0, 2.0]) == 2.0
    turns = [1.8, 1.0, 1.0, 1.0] * 9 + [7.0]
    assert typical_step(turns) == 1.0
    assert typical_step(turns, interval=4) == pytest.approx(1.2)
    assert typical_step([1.8, 1.0], interval=4) == pytest.approx(1.4)


IMPORTED = """
from mmengine.optim import CosineAnnealingLR
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import (
    CrossEntropyLoss, GlobalAveragePooling, ImageClassifier, LinearClsHead)
from torch.optim import SGD

from frskd_mm.datasets import Digits
from frskd_mm.models.backbones import WideResNet
"""


def as_pure_python(config):
    """Return a config whose types are classes that it imports."""
    names = re.findall(r'\w+', IMPORTED.replace('frskd_mm.', ''))
    text = load_config(config, OPTIONS).pretty_text
    text = re.sub(
        r"type='(?:frskd_mm\.)?(\w+)'",
        lambda found: f'type={found[1]}' if found[1] in names else found[0],
        text,
    )
    return IMPORTED + text


def test_a_config_that_imports_its_types_is_compared(tmp_path, config):
    path = tmp_path / 'imported.py'
    path.write_text(as_pure_python(config))
    options = {'train_cfg.max_epochs': 1}
    assert 'type=Accuracy' in path.read_text()
    runs = plan_grid(str(path), ['ce', 'frskd'], [0], str(tmp_path / 'out'), options)
    # Their configs can be read again.
    assert plan_grid(str(path), ['ce'], [0], str(tmp_path / 'out'), options) == runs[:1]
    assert run_grid(runs[:1]) == [], runs[0].last_log_lines()
    assert 'compare/ECE' in runs[0].read_result()['metrics']


def test_hooks_that_a_plain_model_refuses_do_not_change_the_recipe(tmp_path, config):
    watched = tmp_path / 'watched.py'
    watched.write_text(
        f"_base_ = '{config}'\n"
        'custom_hooks = [\n'
        '    *_base_.custom_hooks, dict(type="frskd_mm.SelfTeacherMetricHook")]\n'
    )
    runs = plan_grid(str(watched), ['frskd'], [0], str(tmp_path / 'a'), OPTIONS)
    assert [run.method for run in runs] == ['frskd']
