"""When distillation acts."""

import math
from pathlib import Path

import pytest
import reference
import torch
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from toys import toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.weight_schedule import WeightSchedule
from frskd_mm.registry import MODELS


def factors(schedule, count, unit='epoch', total=None):
    """Factors over the epochs (iterations), as a runner would have them."""
    hub = MessageHub.get_current_instance()
    if total is not None:
        hub.update_info(f'max_{unit}s', total)
    values = []
    for current in range(count):
        hub.update_info(unit, current)
        values.append(schedule())
    return values


def test_default_is_constant():
    schedule = WeightSchedule()
    assert schedule.is_constant
    assert factors(schedule, 5) == [1.0] * 5


@pytest.mark.parametrize(
    ('cfg', 'expected'),
    [
        (dict(begin=2), [0, 0, 1, 1, 1]),
        (dict(end=3), [1, 1, 1, 0, 0]),
        (dict(begin=1, end=4), [0, 1, 1, 1, 0]),
    ],
)
@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_begin_and_end(cfg, expected, unit):
    schedule = WeightSchedule(by_epoch=unit == 'epoch', **cfg)
    assert not schedule.is_constant
    assert factors(schedule, 5, unit) == expected


def test_sigmoid_ramp_is_the_published_one():
    """60 epochs, 40 of them without distillation (segmentation/main.py)."""
    schedule = WeightSchedule(begin=40, ramp='sigmoid')
    expected = [reference.sigmoid_ramp(e, warmup=40, epochs=60) for e in range(60)]
    assert factors(schedule, 60, total=60) == pytest.approx(expected, abs=1e-12)
    # Values of that function: nothing until 40, and the whole weight at the end.
    assert expected[39] == 0.0
    assert expected[40] == pytest.approx(0.010970998, rel=1e-6)
    assert expected[49] == pytest.approx(0.286504797, rel=1e-6)
    assert expected[59] == 1.0


def test_sigmoid_ramp_without_warm_up_by_iteration():
    schedule = WeightSchedule(ramp='sigmoid', by_epoch=False)
    values = factors(schedule, 10, 'iter', total=10)
    expected = [reference.sigmoid_ramp(e, warmup=0, epochs=10) for e in range(10)]
    assert values == pytest.approx(expected)


def test_ramp_end_and_end():
    schedule = WeightSchedule(begin=1, ramp='sigmoid', ramp_end=3, end=5)
    values = factors(schedule, 6, total=100)
    expected = [reference.sigmoid_ramp(e, warmup=1, epochs=3) for e in range(3)]
    assert values == pytest.approx([*expected, 1.0, 1.0, 0.0])


def test_fractions_are_of_the_whole_training():
    # A sixth of 24 epochs with 26 iterations each begins with the fifth epoch.
    schedule = WeightSchedule(begin=1 / 6, by_epoch=False)
    assert factors(schedule, 624, 'iter', total=624) == [0.0] * 104 + [1.0] * 520
    by_fraction = WeightSchedule(begin=2 / 3, ramp='sigmoid', ramp_end=0.9)
    by_epoch = WeightSchedule(begin=40, ramp='sigmoid', ramp_end=54)
    expected = factors(by_epoch, 60, total=60)
    assert factors(by_fraction, 60, total=60) == expected
    assert factors(WeightSchedule(end=0.5), 4, total=4) == [1, 1, 0, 0]
    # A trial of two iterations is no mistake.
    assert factors(WeightSchedule(begin=2 / 3), 2, total=2) == [0, 0]


def test_fractions_count_iterations_where_all_is_one_epoch():
    """As an IterBasedTrainLoop is to MMEngine."""
    MessageHub.get_current_instance().update_info('max_epochs', 1)
    for settings in (dict(begin=0.25), dict(end=0.5), dict(decay_begin=0.5)):
        found = factors(WeightSchedule(**settings), 8, 'iter', total=8)
        counted = WeightSchedule(**settings, by_epoch=False)
        assert found == factors(counted, 8, 'iter', total=8)
        assert len(set(found)) > 1


@pytest.fixture
def warnings(monkeypatch):
    """What schedules warn of."""
    found = []
    monkeypatch.setattr(
        'frskd_mm.models.weight_schedule.print_log',
        lambda text, logger, level: found.append(text),
    )
    return found


@pytest.mark.parametrize(
    ('cfg', 'total'),
    [
        (dict(begin=0.7), 3),
        (dict(begin=0.8, end=0.99), 4),
        (dict(begin=2 / 3, decay_begin=40), 2),
    ],
)
def test_fractions_that_are_rounded_to_the_end_are_warned_of(cfg, total, warnings):
    """Not refused, since a trial of a few epochs is no mistake."""
    assert factors(WeightSchedule(**cfg), total, total=total) == [0] * total
    assert f'training of {total}, so nothing would be distilled' in warnings[0]
    assert len(warnings) == len(set(warnings))


def test_a_short_training_of_fractions_warns_of_nothing_that_acts(warnings):
    schedule = WeightSchedule(begin=0.4, ramp='sigmoid', ramp_end=0.45)
    assert factors(schedule, 2, total=2) == [0, 1]
    assert not warnings


@pytest.mark.parametrize('name', ['end', 'decay_begin'])
def test_times_beyond_the_training_are_warned_of(name, warnings):
    assert factors(WeightSchedule(**{name: 30000}), 1, total=1) == [1]
    assert factors(WeightSchedule(**{name: 30}), 20, total=20) == [1] * 20
    in_one_epoch, later = warnings
    assert f'{name}=30000, beyond a training of 1 epoch' in in_one_epoch
    assert 'set by_epoch=False' in in_one_epoch
    assert f'{name}=30, beyond a training of 20 epoch' in later
    assert 'by_epoch' not in later


def test_without_a_runner_it_is_the_first_epoch():
    assert WeightSchedule(begin=1)() == 0.0
    assert WeightSchedule(begin=1 / 6)() == 0.0
    assert WeightSchedule(end=1)() == 1.0


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(begin=-1), 'begin of WeightSchedule must be >= 0, got -1'),
        (dict(begin=3, end=3), 'got begin=3, end=3'),
        (dict(ramp='linear'), r"one of \(None, 'sigmoid'\), got 'linear'"),
        (dict(begin=4, ramp='sigmoid', ramp_end=4), 'begin=4, ramp_end=4'),
    ],
)
def test_wrong_arguments_are_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(type='WeightSchedule', **cfg))


@pytest.mark.parametrize(
    ('cfg', 'total'),
    [
        (dict(begin=40, ramp='sigmoid'), 30),
        (dict(begin=4), 4),
        (dict(begin=3, ramp='sigmoid', ramp_end=0.5), 4),
    ],
)
@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_a_schedule_that_never_acts_is_refused_at_once(cfg, total, unit):
    schedule = WeightSchedule(by_epoch=unit == 'epoch', **cfg)
    with pytest.raises(ValueError, match=f'in a training of {total}, so nothing'):
        factors(schedule, 1, unit, total=total)


def test_fractions_and_numbers_may_be_mixed():
    schedule = WeightSchedule(begin=1, ramp='sigmoid', ramp_end=0.75, end=0.99)
    assert factors(schedule, 4, total=4) == [0, pytest.approx(math.exp(-1.25)), 1, 1]


class Images(torch.utils.data.Dataset):
    """Eight random images with labels."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index))


class Spy(Hook):
    """Keeps what the model logged in each epoch."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append((runner.epoch, runner.model.distiller.weight_schedule()))
        assert ('loss_kd' in outputs) == (self.seen[-1][1] > 0)


def train(work_dir, epochs, resume=False):
    """Train the toy with a ramp over epochs 1 to 4 and return its factors."""
    spy = Spy()
    build_runner(
        work_dir,
        schedule=dict(begin=1, ramp='sigmoid', ramp_end=4),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        custom_hooks=[spy],
        resume=resume,
        experiment_name=f'{work_dir.name}_{epochs}_{resume}',
    ).train()
    return spy.seen


def build_runner(work_dir, schedule, log_level='ERROR', **kwargs):
    """A runner of the toy with this weight schedule."""
    return Runner(
        model=dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(),
            distiller=toy_frskd_cfg(weight_schedule=schedule),
        ),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Images(),
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
        default_scope='mmpretrain',
        log_level=log_level,
        **kwargs,
    )


def test_resuming_goes_on_with_the_ramp(tmp_path):
    whole = train(tmp_path / 'whole', epochs=4)
    first = train(tmp_path / 'parts', epochs=2)
    rest = train(tmp_path / 'parts', epochs=4, resume=True)
    assert [epoch for epoch, _ in rest] == [2, 2, 3, 3]
    assert first + rest == whole
    assert [factor for _, factor in whole[::2]] == pytest.approx(
        [reference.sigmoid_ramp(e, warmup=1, epochs=4) for e in range(4)]
    )


@pytest.mark.parametrize(
    ('schedule', 'message'),
    [
        (dict(begin=40, ramp='sigmoid'), 'training of 1, .* set by_epoch=False'),
        (dict(begin=0.5, decay_begin=3), 'training of 1, .* set by_epoch=False'),
        (dict(begin=0.5, ramp='sigmoid', ramp_end=3), 'of 1, .* set by_epoch=False'),
        (
            dict(begin=0.5, end=2, by_epoch=False),
            'iteration 2 and end with 2',
        ),
        (dict(begin=4, by_epoch=False), 'begin with iteration 4 .* training of 4'),
    ],
)
def test_an_iteration_based_loop_does_not_skip_it_silently(tmp_path, schedule, message):
    loop = dict(by_epoch=False, max_iters=4)
    with pytest.raises(ValueError, match=message):
        build_runner(tmp_path, schedule, train_cfg=loop).train()


def test_a_ramp_by_epochs_in_an_iteration_based_loop_is_warned_of(tmp_path):
    runner = build_runner(
        tmp_path,
        dict(ramp='sigmoid'),
        log_level='WARNING',
        train_cfg=dict(by_epoch=False, max_iters=4),
    )
    runner.train()
    log = Path(runner.log_dir, f'{runner.timestamp}.log').read_text()
    assert log.count('set by_epoch=False') == 1


@pytest.mark.parametrize('unit', ['epoch', 'iter'])
def test_decays_along_half_a_cosine(unit):
    schedule = WeightSchedule(decay_begin=2, end=6, by_epoch=unit == 'epoch')
    assert not schedule.is_constant
    cosine = [0.5 * (1 + math.cos(math.pi * s / 4)) for s in range(4)]
    expected = [1, 1, *cosine, 0, 0]
    assert factors(schedule, 8, unit, total=8) == pytest.approx(expected)


def test_decays_until_the_end_of_training_after_a_ramp():
    schedule = WeightSchedule(begin=2, ramp='sigmoid', ramp_end=6, decay_begin=0.5)
    ramp = WeightSchedule(begin=2, ramp='sigmoid', ramp_end=6)
    total = 12
    decayed = [1.0] * 6 + [0.5 * (1 + math.cos(math.pi * s / 6)) for s in range(6)]
    expected = [a * b for a, b in zip(factors(ramp, total, total=total), decayed)]
    assert factors(schedule, total, total=total) == pytest.approx(expected)


def test_a_decay_after_the_end_is_refused():
    with pytest.raises(ValueError, match='decay_begin=5, end=4'):
        WeightSchedule(decay_begin=5, end=4)
