"""The self-teacher's own metric, in real trainings on the embedded digits."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frskd_mm.engine import evaluate, load_config, train
from frskd_mm.hooks.self_teacher_metric_hook import own_files

REPO = Path(__file__).resolve().parents[2]
DISTILLED = 'digits/frskd_wrn10-1_digits.py'


def config(name, work_dir, hooks=()):
    cfg = load_config(str(REPO / 'configs' / name))
    cfg.work_dir = str(work_dir)
    cfg.randomness = dict(seed=0)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.num_per_class = 4
    cfg.train_cfg.update(max_epochs=2, val_interval=1)
    cfg.default_hooks.checkpoint.update(interval=1, save_best='accuracy/top1')
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), *hooks]
    return cfg


def logged(work_dir):
    (path,) = Path(work_dir).glob('*/vis_data/scalars.json')
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(runner):
    return {k: v.clone() for k, v in runner.model.state_dict().items()}


def test_it_is_the_tests_metric_and_changes_no_training(tmp_path):
    hook = dict(type='frskd_mm.SelfTeacherMetricHook')
    plain = train(config(DISTILLED, tmp_path / 'plain'))
    hooked = train(config(DISTILLED, tmp_path / 'hooked', [hook]))
    for key, value in weights(plain).items():
        assert torch.equal(value, weights(hooked)[key]), key
    key = 'self_teacher/accuracy/top1'
    values = [line[key] for line in logged(tmp_path / 'hooked') if key in line]
    assert len(values) == 2
    assert not [line for line in logged(tmp_path / 'plain') if key in line]
    # Validation and test data are the same here.
    cfg = config(DISTILLED, tmp_path / 'test')
    metrics = evaluate(cfg, str(tmp_path / 'hooked' / 'epoch_2.pth'), self_teacher=True)
    assert metrics['accuracy/top1'] == pytest.approx(values[-1])
    best = [p.name for p in (tmp_path / 'hooked').glob('best_*')]
    assert best == [p.name for p in (tmp_path / 'plain').glob('best_*')]


def test_metrics_that_are_no_numbers_are_left_out(tmp_path):
    hook = dict(type='frskd_mm.SelfTeacherMetricHook')
    cfg = config(DISTILLED, tmp_path, [hook])
    cfg.default_hooks.checkpoint.pop('save_best')
    matrix = dict(type='ConfusionMatrix', num_classes=10)
    cfg.val_evaluator = [cfg.val_evaluator, matrix]
    train(cfg)
    lines = [x for x in logged(tmp_path) if 'self_teacher/accuracy/top1' in x]
    assert len(lines) == 2
    assert not [key for line in lines for key in line if 'confusion' in key]


def test_the_student_s_predictions_are_kept(tmp_path):
    hook = dict(type='frskd_mm.SelfTeacherMetricHook')
    cfg = config(DISTILLED, tmp_path, [hook])
    out = tmp_path / 'calibration.npz'
    metric = dict(type='frskd_mm.Calibration', out_file=str(out))
    cfg.val_evaluator = [cfg.val_evaluator, metric]
    train(cfg)
    lines = logged(tmp_path)
    for path, prefix in (
        (out, ''),
        (tmp_path / 'self_teacher_calibration.npz', 'self_teacher/'),
    ):
        right = np.load(path)['correct'].mean()
        key = f'{prefix}accuracy/top1'
        assert 100 * right == pytest.approx([x[key] for x in lines if key in x][-1])


def test_every_second_validation(tmp_path):
    hook = dict(type='frskd_mm.SelfTeacherMetricHook', interval=2)
    train(config(DISTILLED, tmp_path, [hook]))
    lines = [x for x in logged(tmp_path) if 'self_teacher/accuracy/top1' in x]
    assert len(lines) == 1


def test_a_plain_model_is_refused(tmp_path):
    hook = dict(type='frskd_mm.SelfTeacherMetricHook')
    with pytest.raises(TypeError, match='Remove the hook'):
        train(config('digits/wrn10-1_digits.py', tmp_path, [hook]))


def test_folders_of_predictions_are_there_for_the_self_teacher(tmp_path):
    """Metrics make theirs when they are built."""
    folder = tmp_path / 'preds'
    folder.mkdir()
    metric = SimpleNamespace(output_dir=str(folder), out_file_path='a.pkl', out_file='')
    with own_files([metric]):
        assert metric.output_dir == str(tmp_path / 'self_teacher_preds')
        assert (tmp_path / 'self_teacher_preds').is_dir()
        assert metric.out_file_path == 'self_teacher_a.pkl'
        assert metric.out_file == ''
    assert (metric.output_dir, metric.out_file_path) == (str(folder), 'a.pkl')
