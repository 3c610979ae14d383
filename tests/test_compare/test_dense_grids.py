"""tools/compare.py on a segmentor and a detector: mIoU and AP of real grids."""

import json
import os
import shutil
from collections import namedtuple

import pytest
import torch
from mmengine.config import Config

from frskd_mm.engine import configure_run, evaluate
from frskd_mm.lab.compare import plan_grid, plan_quick, run_grid, write_report
from frskd_mm.utils.model import build_model

OPTIONS = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 2,
    'train_dataloader.batch_size': 8,
    'train_dataloader.dataset.num_scenes': 32,
    'val_dataloader.dataset.num_scenes': 8,
    'test_dataloader.dataset.num_scenes': 8,
    'default_hooks.checkpoint.interval': 2,
    'default_hooks.logger.interval': 1,
}
Grid = namedtuple('Grid', 'runs out columns')


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(
            ('fcn_r18-c16_digit-scenes', {'mIoU (%)': ('mIoU', 1.0)}),
            marks=pytest.mark.slow,
        ),
        (
            'retinanet_r18-c16_digit-scenes',
            {
                'box AP (%)': ('coco/bbox_mAP', 100.0),
                'box AP50 (%)': ('coco/bbox_mAP_50', 100.0),
            },
        ),
    ],
    ids=['segmentor', 'detector'],
)
def grid(request, tmp_path_factory):
    config, columns = request.param
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = os.path.join(root, 'configs', 'digits', f'{config}.py')
    out = tmp_path_factory.mktemp(config)
    runs = plan_grid(path, ['none', 'frskd'], [0], str(out), OPTIONS)
    for run in run_grid(runs):
        pytest.fail(run.last_log_lines())
    return Grid(runs, out, columns)


def read_table(markdown):
    header, _, *rows = [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in markdown.splitlines()
    ]
    return [dict(zip(header, row)) for row in rows]


def evaluate_apart(config, checkpoint, work_dir):
    cfg = Config.fromfile(str(config))
    return evaluate(configure_run(cfg, work_dir=str(work_dir)), str(checkpoint))


def test_columns_are_the_evaluators_of_both_checkpoints(grid, tmp_path):
    rows = read_table(write_report(grid.runs, str(grid.out), 'the command'))
    assert [row['method'] for row in rows] == ['none', 'frskd']
    values = {name: [] for name in grid.columns}
    for run, row in zip(grid.runs, rows):
        folder = grid.out / run.method / 'seed0'
        files = [(folder / 'config.py', folder / 'work_dir' / 'epoch_2.pth')]
        if run.method == 'frskd':  # the plain student that is left behind
            files.append((folder / 'student.py', folder / 'student.pth'))
        for number, (config, checkpoint) in enumerate(files):
            name = f'{run.method}{number}'
            metrics = evaluate_apart(config, checkpoint, tmp_path / name)
            for column, (metric, scale) in grid.columns.items():
                assert row[column] == f'{scale * metrics[metric]:.2f}', checkpoint
        for column, (metric, scale) in grid.columns.items():
            values[column].append(scale * metrics[metric])
    plain, frskd = next(iter(values.values()))
    assert plain > 0  # four steps an epoch are enough for that
    assert plain != frskd
    difference = rows[1]['difference [95 % interval]']
    assert difference == f'{frskd - plain:+.2f} (n=1: no interval)'


def test_parameters_are_added_in_training_alone(grid):
    plain, frskd = read_table(write_report(grid.runs, str(grid.out), ''))
    model = build_model(Config.fromfile(os.path.join(grid.runs[1].folder, 'config.py')))
    added = sum(p.numel() for p in model.distiller.parameters())
    assert added > 0
    assert (plain['added in training'], plain['added in use']) == ('0', '0')
    assert (frskd['added in training'], frskd['added in use']) == (f'{added:,}', '0')
    weights = torch.load(grid.out / 'frskd' / 'seed0' / 'student.pth')['state_dict']
    assert not [name for name in weights if name.startswith('distiller.')]


def test_report_has_curves_and_no_calibration(grid):
    table = write_report(grid.runs, str(grid.out), '')
    assert 'ECE' not in table
    page = (grid.out / 'report.html').read_text()
    assert page.count('src="data:image/png;base64,') == 3  # no reliability diagram
    assert 'Not drawn' not in page
    assert (grid.out / 'learning_curves.png').stat().st_size > 10_000


def test_a_run_without_the_metric_has_no_value(grid, tmp_path):
    out = tmp_path / 'copy'
    shutil.copytree(grid.out, out)
    runs = [
        run._replace(folder=str(out / run.method / f'seed{run.seed}'))
        for run in grid.runs
    ]
    for number, run in enumerate(runs):  # as if nothing had been detected
        path = out / run.method / 'seed0' / 'result.json'
        path.write_text(json.dumps({**json.loads(path.read_text()), 'metrics': {}}))
        if number == 0:
            plain, frskd = read_table(write_report(runs, str(out), ''))
            for column in grid.columns:
                assert plain[column] == '–'
                assert float(frskd[column]) >= 0
            assert frskd['difference [95 % interval]'] == '–'
    with pytest.raises(ValueError, match='no metrics at all'):
        write_report(runs, str(out), '')


def test_distillation_took_part(grid):
    path = grid.out / 'frskd' / 'seed0' / 'scalars.json'
    last = json.loads(path.read_text().splitlines()[-1])
    assert last['loss_kd'] > 0
    assert last['loss_at'] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['fcn_r18-c16_digit-scenes', 'retinanet_r18-c16_digit-scenes']
)
def test_a_trial_measures_the_self_teacher_once(name, tmp_path):
    """Its schedules have a ValLoop, which must not become the test's."""
    config = f'frskd_mm::digits/{name}.py'
    runs = plan_quick(config, str(tmp_path), ['frskd-attached'], [0], 0.5, OPTIONS)
    chosen = [run for run in runs if run.method == 'frskd-attached']
    for run in run_grid(chosen):
        pytest.fail(run.last_log_lines())
    assert chosen[0].read_result()['self_teacher']
