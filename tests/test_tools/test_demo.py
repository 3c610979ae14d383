"""The demo: its table, curves and pictures, and a short run of each task."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from frskd_mm.engine import train
from frskd_mm.evaluation.calibration import Predictions
from frskd_mm.lab.demo import (
    TASKS,
    DemoResult,
    demo_config,
    require_task,
    results_table,
    run_demo,
)
from frskd_mm.lab.visualization.learning_curves import (
    Curves,
    draw_learning_curves,
    read_curves,
)
from frskd_mm.lab.visualization.reliability import draw_reliability
from frskd_mm.utils.optional import require_packages
from frskd_mm.visualization.attention_maps import (
    attention_maps,
    draw_attention_maps,
)

# A few images instead of all, with the demo's own models and recipes.
SMALL = {
    'cls': dict(
        train_dataloader=dict(dataset=dict(num_per_class=2)),
        val_dataloader=dict(dataset=dict(num_per_class=2)),
        test_dataloader=dict(dataset=dict(num_per_class=2)),
    ),
    'scenes': dict(
        train_dataloader=dict(batch_size=4, dataset=dict(num_scenes=8)),
        val_dataloader=dict(dataset=dict(num_scenes=8)),
        test_dataloader=dict(dataset=dict(num_scenes=8)),
    ),
}


def write_log(path, lines):
    path.write_text('\n'.join(map(json.dumps, lines)))
    return str(path)


def test_curves_hold_the_student_alone(tmp_path):
    plain = write_log(
        tmp_path / 'plain.json',
        [
            dict(loss=2.0, lr=0.1, epoch=1, iter=10, step=10),
            dict(acc=0.5, step=1),
            dict(loss=1.5, lr=0.1, epoch=2, iter=20, step=20),
            dict(acc=0.75, step=2),
        ],
    )
    assert read_curves(plain, 'acc', scale=100.0) == Curves(
        [10, 20], [2.0, 1.5], [1, 2], [50.0, 75.0]
    )
    distilled = {
        'loss': 9.0,
        'student.loss': 1.8,
        'loss_kd': 7.2,
        'student.task_loss': 2.0,
        'iter': 10,
    }
    log = write_log(
        tmp_path / 'frskd.json',
        [distilled, dict(acc=1.0, step=10)],
    )
    curves = read_curves(log, 'acc')
    assert curves.losses == [2.0]
    assert curves.are_means
    assert not curves.by_epoch  # the runner counts iterations
    with pytest.raises(ValueError, match=r"has no 'mIoU'. It has: acc, iter"):
        read_curves(log, 'mIoU')
    distilled['student.task'] = distilled.pop('student.task_loss')
    log = write_log(tmp_path / 'old.json', [distilled, dict(acc=1.0, step=10)])
    curves = read_curves(log, 'acc')
    assert curves.losses == [2.0]
    assert not curves.are_means


def test_the_same_training_gives_the_same_curve(repo, tmp_path):
    """Without any term of its own, FRSKD trains as the plain student does."""
    losses = {}
    for method in ('plain', 'frskd'):
        path = repo / 'configs' / getattr(TASKS['cls'], method)
        cfg = demo_config(str(path), str(tmp_path / method), seed=0, epochs=1)
        cfg.train_dataloader.dataset.num_per_class = 4
        cfg.train_dataloader.batch_size = 4
        cfg.default_hooks.logger.interval = 3
        if method == 'frskd':
            distiller = cfg.model.distiller
            distiller.soft_label.loss_weight = 0.0
            distiller.feature_loss.loss_weight = 0.0
            distiller.self_teacher_loss_weight = 0.0
        train(cfg)
        losses[method] = read_curves(str(tmp_path / method), 'accuracy/top1').losses
    assert len(set(losses['plain'])) == 3
    assert losses['frskd'] == losses['plain']


def test_table_has_means_deviations_and_paired_gains():
    result = DemoResult(
        TASKS['cls'],
        [0, 1],
        plain=[80.0, 84.0],
        frskd=[82.0, 86.0],
        self_teacher=[90.0],
    )
    row = results_table([result]).splitlines()[2]
    cells = [cell.strip() for cell in row.strip('|').split('|')]
    assert cells[1:] == ['0, 1', '82.0 ± 2.8', '84.0 ± 2.8', '+2.0 ± 0.0', '90.0']


def colours_of(path):
    picture = cv2.imread(str(path))
    assert picture is not None
    return np.unique(picture.reshape(-1, 3), axis=0)


def test_curves_are_drawn(tmp_path):
    path = tmp_path / 'curves.png'
    seed = Curves([1, 2, 3], [3.0, 2.0, 1.0], [1, 2], [10.0, 20.0])
    sparse = Curves([2], [2.5], [2], [20.0])  # logged less often
    draw_learning_curves(
        {'plain student': [seed, sparse], 'FRSKD student': [seed]},
        metric_label='accuracy (%)',
        title='Title',
        path=str(path),
        levels={'self-teacher': 15.0},
    )
    # Both methods' colours and the dashed line's, as BGR.
    drawn = {tuple(colour) for colour in colours_of(path).tolist()}
    assert {(0xB0, 0x78, 0x48), (0x3B, 0x79, 0xD1), (0x6F, 0x9E, 0x5A)} <= drawn


@pytest.mark.filterwarnings('error')
def test_names_are_drawn_as_they_are(tmp_path, monkeypatch):
    names = ['$x_{$', '_mine', 'a$b$c']
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, *a, **b: figures.append(self) or save(self, *a, **b),
    )
    seed = Curves([1, 2, 3], [3.0, 2.0, 1.0], [1, 2], [10.0, 20.0])
    runs = {name: [seed] for name in names}
    path = str(tmp_path / 'picture.png')
    draw_learning_curves(runs, '$y_{$', '$t_{$', path, levels={'$l_{$': 1.0})
    predictions = Predictions(*np.full((3, 4), 0.5))
    draw_reliability(dict.fromkeys(names, [predictions]), path)
    (legend,) = figures[0].legends
    shown = [text.get_text().strip() for text in legend.get_texts()]
    assert shown == [name.replace('$', r'\$') for name in [*names, '$l_{$']]


@pytest.mark.filterwarnings('error')
def test_many_methods_leave_room_for_the_curves(tmp_path):
    path = tmp_path / 'curves.png'
    seed = Curves([1, 2, 3], [3.0, 2.0, 1.0], [1, 2], [10.0, 20.0])
    runs = {f'a method with number {i}': [seed] * 3 for i in range(25)}
    draw_learning_curves(runs, metric_label='mIoU', title='Title', path=str(path))
    height, width, _ = cv2.imread(str(path)).shape
    assert height > 25 * 20
    assert 1000 < width < 2000


def test_attention_is_relative_to_a_uniform_map():
    from toys import toy_batch, toy_distilled

    model = toy_distilled()
    maps = attention_maps(model, toy_batch()['inputs'])
    assert len(maps) == 4
    for pair in maps:
        for stack in pair:
            # L2-normalised maps, times the root of their size.
            torch.testing.assert_close(
                stack.square().mean(dim=(1, 2)), torch.ones(len(stack))
            )


def test_attention_pictures_show_where_a_map_is_strong(tmp_path):
    path = tmp_path / 'attention.png'
    images = [np.full((8, 8, 3), 128, np.uint8)] * 2
    strong = torch.zeros(2, 4, 4)
    strong[:, 0, 0] = 4.0
    draw_attention_maps(images, [(strong, torch.ones(2, 4, 4))], 'Title', str(path))
    assert len(colours_of(path)) > 50
    picture = cv2.imread(str(path)).astype(int)
    red = (picture[..., 2] - picture[..., 0] > 60).sum()
    assert 0 < red < picture[..., 0].size / 8


@pytest.mark.parametrize('name', list(TASKS))
def test_a_short_run_of_each_task(name, repo, tmp_path, capsys):
    small = SMALL['cls' if name == 'cls' else 'scenes']
    for method in (TASKS[name].plain, TASKS[name].frskd):
        path = tmp_path / 'configs' / method
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f'_base_ = {str(repo / "configs" / method)!r}', "log_level = 'ERROR'"]
        path.write_text(
            '\n'.join([*lines, *(f'{k} = {v!r}' for k, v in small.items())])
        )
    result = run_demo(
        TASKS[name], str(tmp_path / 'configs'), str(tmp_path / 'out'), [3], epochs=1
    )
    assert result.seeds == [3]
    plain, frskd = result.plain[0], result.frskd[0]
    first = f'seed 3, {TASKS[name].metric_label}: {plain:.1f} plain, {frskd:.1f} with'
    assert first in capsys.readouterr().out
    for values in (result.plain, result.frskd, result.self_teacher):
        assert len(values) == 1
        assert 0.0 <= values[0] <= 100.0
    for picture in ('learning_curves.png', 'attention_maps.png'):
        assert len(colours_of(tmp_path / 'out' / picture)) > 50


def test_missing_packages_are_named_together():
    require_packages('The demo', numpy='numpy')
    with pytest.raises(ImportError, match='The demo needs a-b c-d, .* install a-b c-d'):
        require_packages('The demo', no_such_a='a-b', numpy='numpy', no_such_c='c-d')


def test_a_task_without_its_library_is_refused_before_any_training(monkeypatch):
    for task in TASKS.values():
        require_task(task)
    monkeypatch.setattr('frskd_mm.lab.demo.has_operators', lambda: False)
    require_task(TASKS['cls'])
    for name in ('seg', 'det'):
        with pytest.raises(ImportError, match='operators of mmcv(?s:.*)make demo-all'):
            require_task(TASKS[name])
    monkeypatch.setattr('frskd_mm.lab.demo.has_host', lambda host: False)
    for task in TASKS.values():
        with pytest.raises(ImportError, match=f'needs {task.host}.*pip install.*make'):
            require_task(task)


def test_classification_needs_no_operators_and_no_other_library(repo, tmp_path):
    """What ``make demo`` has on a fresh machine, where nothing was compiled."""
    (tmp_path / 'demo.py').write_text(
        'import sys\n'
        'sys.modules.update({"mmcv._ext": None, "mmseg": None, "mmdet": None})\n'
        f'sys.path.insert(0, {str(repo)!r})\n'
        f'sys.argv[0] = {str(repo / "tools/demo.py")!r}\n'
        'import runpy\n'
        'runpy.run_path(sys.argv[0], run_name="__main__")\n'
    )
    options = ['--task', 'cls', '--seeds', '0', '--epochs', '1', '--work-dir', 'out']
    done = subprocess.run(
        [sys.executable, 'demo.py', *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'make demo-all' in done.stdout
    assert (tmp_path / 'out/cls/learning_curves.png').is_file()


def test_command_line_lists_its_options(repo):
    shown = subprocess.run(
        [sys.executable, str(repo / 'tools' / 'demo.py'), '--help'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in ('--task {cls,seg,det,all}', '--seeds', '--epochs', '--work-dir'):
        assert option in shown
