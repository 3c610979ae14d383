"""The benchmark: what it counts, how it takes turns, and real runs of it."""

import json
import runpy
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmpretrain.models import ImageClassifier
from mmpretrain.registry import MODELS
from torch import nn

from frskd_mm.commands import benchmark
from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.benchmark import (
    Arm,
    Workload,
    choose_image_size,
    configure,
    configure_arms,
    draw_sweep,
    measure_inference,
    parse_sweep,
    plan_arms,
    plan_sweep,
    report,
    sweep_table,
)
from frskd_mm.lab.benchmark.flops import count_flops, count_inference_macs
from frskd_mm.lab.benchmark.inference import are_identical, flatten
from frskd_mm.lab.benchmark.loader import measure_loader
from frskd_mm.lab.benchmark.measure import bound, count
from frskd_mm.lab.benchmark.memory import measure_memory
from frskd_mm.lab.benchmark.operators import REST, profile_operators
from frskd_mm.lab.benchmark.rounds import Spread, paired_ratio, run_in_turns
from frskd_mm.lab.benchmark.steps import PHASES, TrainingStep
from frskd_mm.lab.outputs import check_output
from frskd_mm.lab.trial import find_num_classes, random_batch
from frskd_mm.utils.image_size import find_image_size
from frskd_mm.utils.model import build_model
from frskd_mm.utils.recorder import Recorder

PLAIN = 'configs/digits/wrn10-1_digits.py'
FRSKD = 'configs/digits/frskd_wrn10-1_digits.py'
SMALL = Workload(batch_size=2, image_size=(16, 16))
TASKS = {
    'cls': PLAIN,
    'seg': 'configs/digits/fcn_r18-c16_digit-scenes.py',
    'det': 'configs/digits/retinanet_r18-c16_digit-scenes.py',
}


@pytest.fixture
def read(repo):
    """Function that reads a config of the repository."""
    return lambda path, options=None: load_config(str(repo / path), options)


@pytest.fixture
def arms(read):
    """Arms of the small classifier and its method."""
    return configure_arms(plan_arms([read(FRSKD)]), SMALL.image_size)


# Counting


@pytest.mark.parametrize('groups', [1, 2, 8])
@pytest.mark.parametrize('conv', [nn.Conv2d, nn.ConvTranspose2d])
def test_backward_of_a_convolution_takes_twice_its_forward(conv, groups):
    layer = conv(8, 8, 3, padding=1, groups=groups)
    inputs = torch.randn(2, 8, 5, 6, requires_grad=True)
    forward = 2 * 2 * (8 * 8 // groups * 9) * (5 * 6)
    assert count_flops(lambda: layer(inputs)) == forward
    assert count_flops(lambda: layer(inputs).sum().backward()) == 3 * forward


def test_detached_input_takes_no_gradient():
    layer = nn.Conv2d(4, 6, 1)
    inputs = torch.randn(2, 4, 3, 3)
    forward = 2 * 2 * (4 * 6) * (3 * 3)
    assert count_flops(lambda: layer(inputs).sum().backward()) == 2 * forward


def test_flops_of_the_student_are_three_times_its_prediction(arms):
    step = TrainingStep(arms[0].cfg, SMALL, 10)
    batch = step.model.data_preprocessor(step.fresh_batch(), True)
    macs = count_inference_macs(step.model, batch)
    assert step.model.training
    # Forward and two backward passes, but MMEngine counts norms and pooling, too,
    # and no gradient goes into the images.
    assert count_flops(step) == pytest.approx(3 * 2 * 2 * macs, rel=0.1)


def test_prediction_that_cannot_be_traced_is_counted_while_it_runs():
    class Untraceable(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 1)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            if data_samples is None:
                raise ValueError('no annotations')
            return self.layer(inputs)

    batch = dict(inputs=torch.randn(2, 3, 5, 5), data_samples=[1, 2])
    assert count_inference_macs(Untraceable(), batch) == 3 * 4 * 25


def test_arithmetic_of_the_bound():
    found = bound(dict(step_flops=30), dict(step_flops=20), ratio=1.8)
    assert found == dict(flops_ratio=1.5, ratio_to_flops=pytest.approx(1.2))


# Turns


def test_turns_rotate_and_skip_the_warmup():
    order = []

    def step(name):
        order.append(name)
        return dict(total=float(len(order)))

    names = ('a', 'b', 'c')
    seconds = run_in_turns({n: lambda n=n: step(n) for n in names}, rounds=2, warmup=1)
    assert order == list('abc' + 'bca' + 'cab')
    assert [s['total'] for s in seconds['a']] == [6.0, 8.0]
    assert [s['total'] for s in seconds['b']] == [4.0, 9.0]


def test_ratio_is_taken_round_by_round():
    plain = [dict(total=t) for t in (1.0, 2.0, 10.0)]
    own = [dict(total=t) for t in (2.0, 4.0, 30.0)]
    assert paired_ratio(own, plain) == Spread(median=2.0, low=2.0, high=2.5)


# The step


@pytest.mark.parametrize('task', TASKS)
def test_step_of_each_task_has_all_phases(read, task):
    workload = Workload(2, (32, 64))
    cfg = configure(wrap(read(TASKS[task]), 'frskd'), workload.image_size)
    step = TrainingStep(cfg, workload, find_num_classes(cfg.model.student))
    batch = step.model.data_preprocessor(step.fresh_batch(), True)
    assert batch['inputs'].shape == (2, 3, 32, 64)
    # All terms act from the first step on, whatever the schedule.
    losses = step.model(**batch, mode='loss')
    assert {'loss_kd', 'loss_at'} <= losses.keys()
    seconds = step()
    assert sum(seconds[phase] for phase in PHASES) == pytest.approx(seconds['total'])
    assert all(seconds[phase] > 0 for phase in PHASES)


def test_step_is_a_real_one_but_leaves_the_weights(arms):
    step = TrainingStep(arms[1].cfg, SMALL, 10)
    before = {k: v.clone() for k, v in step.model.named_parameters()}
    for _ in range(2):
        step()
    state = step.optim_wrapper.optimizer.state
    trained = [p for p in step.model.parameters() if p.requires_grad]
    assert sum(bool(state[p]['momentum_buffer'].any()) for p in trained) > 10
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_step_with_accumulation_ends_with_one_update(read):
    options = {'optim_wrapper.accumulative_counts': 3}
    cfg = configure(read(PLAIN, options), SMALL.image_size)
    step = TrainingStep(cfg, SMALL, 10)
    updates = []
    step.optim_wrapper.optimizer.register_step_post_hook(
        lambda *args: updates.append(args)
    )
    step()
    assert len(updates) == 1
    assert step.images == 6


@MODELS.register_module()
class TwoOptimisers(ImageClassifier):
    """A classifier whose head has an optimiser of its own."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        loss, log = self.parse_losses(self(**data, mode='loss'))
        optimisers = list(optim_wrapper.values())
        optimisers[0].zero_grad()
        optimisers[1].backward(loss)
        for optimiser in optimisers:
            optimiser.step()
        again, _ = self.parse_losses(self(**data, mode='loss'))
        optimisers[1].update_params(again)
        return log


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class HeadApart:
    """Gives the parameters of the heads to one optimiser and the rest to another."""

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.cfg = optim_wrapper_cfg

    def __call__(self, model):
        parts = {'rest': nn.ModuleList(), 'head': nn.ModuleList()}
        for name, part in model.named_children():
            parts['head' if name == 'head' else 'rest'].append(part)
        return OptimWrapperDict(
            **{
                name: build_optim_wrapper(part, self.cfg[name])
                for name, part in parts.items()
            }
        )


@pytest.mark.parametrize('method', ['none', 'frskd'])
def test_step_with_several_optimisers(read, method):
    sgd = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    cfg = wrap(read(PLAIN), method)
    cfg.optim_wrapper = dict(
        constructor='HeadApart', rest=sgd, head={**sgd, 'accumulative_counts': 2}
    )
    student = cfg.model if method == 'none' else cfg.model.student
    student.type = 'TwoOptimisers'
    with pytest.raises(ValueError, match=r"several .* in each of optim_wrapper's"):
        configure(cfg, SMALL.image_size, amp=True)
    step = TrainingStep(configure(cfg, SMALL.image_size), SMALL, 10)
    assert step.images == 4
    before = {k: v.clone() for k, v in step.model.named_parameters()}
    seconds = step()
    assert sum(seconds[phase] for phase in PHASES) == pytest.approx(seconds['total'])
    assert all(seconds[phase] > 0 for phase in PHASES)
    for optimiser in step.optimisers:
        assert optimiser.optimizer.state
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_a_self_teacher_on_every_third_step_runs_once_in_three(read):
    options = {'model.distiller.interval': 3}
    cfg = configure(read(FRSKD, options), SMALL.image_size)
    step = TrainingStep(cfg, SMALL, 10)
    neck = step.model.distiller.self_teacher.neck
    with Recorder({'neck': (neck, 'forward')}) as record:
        assert set(step()) == {*PHASES, 'total'}
    assert len(record.outputs['neck']) == 1
    always = TrainingStep(configure(read(FRSKD), SMALL.image_size), SMALL, 10)
    plain = TrainingStep(configure(read(PLAIN), SMALL.image_size), SMALL, 10)
    flops = [count(s)['step_flops'] for s in (step, always, plain)]
    assert flops[0] - flops[2] == pytest.approx((flops[1] - flops[2]) / 3)


def test_compiled_step_has_its_total_alone(arms):
    cfg = arms[0].cfg
    cfg.compile = dict(backend='eager')
    step = TrainingStep(cfg, SMALL, 10)
    assert set(step()) == {*PHASES, 'total'}
    step.compile()
    assert set(step()) == {'total'}


def test_layout_is_the_configs_or_as_asked_for(read):
    cfg = read(PLAIN, {'custom_hooks': [dict(type='frskd_mm.ChannelsLastHook')]})
    for asked, expected in ((None, True), (True, True), (False, False)):
        chosen = configure(cfg, SMALL.image_size, channels_last=asked)
        step = TrainingStep(chosen, SMALL, 10)
        weight = step.model.backbone.stem.weight
        layout = torch.channels_last
        assert weight.is_contiguous(memory_format=layout) == expected


def test_pairs_get_their_partners(read):
    cfg = configure(wrap(read(PLAIN), 'cs-kd'), SMALL.image_size)
    batch = random_batch(cfg, *SMALL, num_classes=10)
    labels = [int(sample.gt_label) for sample in batch['data_samples']]
    assert len(labels) == 4
    assert labels[:2] == labels[2:]
    assert TrainingStep(cfg, SMALL, 10)()['total'] > 0
    plain, _ = configure_arms(plan_arms([cfg]), SMALL.image_size)
    assert len(random_batch(plain.cfg, *SMALL, num_classes=10)['inputs']) == 2


@pytest.mark.parametrize('task', TASKS)
def test_random_images_have_the_backbones_channels(read, task):
    cfg = read(TASKS[task])
    cfg.model.backbone.in_channels = 5
    for image in random_batch(cfg, 2, (16, 16), 2)['inputs']:
        assert image.shape[0] == 5


@pytest.mark.parametrize('task', TASKS)
def test_random_labels_are_below_the_number_of_classes(read, task):
    for num_classes in (1, 3):
        batch = random_batch(read(TASKS[task]), 4, (16, 16), num_classes)
        labels = {
            'cls': lambda s: s.gt_label,
            'seg': lambda s: s.gt_sem_seg.data,
            'det': lambda s: s.gt_instances.labels,
        }[task]
        found = torch.cat([labels(s).flatten() for s in batch['data_samples']])
        assert set(found.tolist()) == set(range(num_classes))


# Planning


def test_plain_student_comes_first_and_once(read):
    arms = plan_arms([read(FRSKD)], against=['foreign_step:build'])
    plain = 'student of frskd_wrn10-1_digits'
    assert [arm.name for arm in arms] == [
        plain,
        'frskd_wrn10-1_digits',
        'foreign_step:build',
    ]
    assert [arm.baseline for arm in arms] == [plain, plain, '']
    assert arms[0].cfg.model == arms[1].cfg.model.student
    assert arms[2].num_classes == 10

    arms = plan_arms([read(PLAIN)], methods=['none', 'frskd', 'sla'])
    assert [arm.name for arm in arms] == [
        'wrn10-1_digits',
        'frskd_wrn10-1_digits',
        'sla_wrn10-1_digits',
    ]
    assert {arm.baseline for arm in arms} == {'wrn10-1_digits'}
    assert [arm.has_method for arm in arms] == [False, True, True]

    # Settings of the methods, as --cfg-options gives them, are not the plain one's.
    (plain, frskd) = plan_arms(
        [read(PLAIN, {'model.distiller.neck.width': 1})], methods=['frskd']
    )
    assert 'distiller' not in plain.cfg.model
    assert frskd.cfg.model.distiller.neck.width == 1


def test_student_of_two_configs_is_there_once(read):
    other = read(FRSKD, {'model.distiller.neck.width': 1})
    object.__setattr__(other, '_filename', 'narrow.py')
    arms = plan_arms([read(FRSKD), other])
    assert [arm.name for arm in arms][1:] == ['frskd_wrn10-1_digits', 'narrow']
    assert {arm.baseline for arm in arms} == {arms[0].name}


@pytest.mark.parametrize(
    ('name', 'match'),
    [
        ('foreign_step', 'module:function'),
        (':build', 'module:function'),
        ('foreign_step:nothing', "has no function 'nothing'"),
        ('no_such_module:build', 'working directory'),
    ],
)
def test_unknown_function_is_refused(read, name, match):
    with pytest.raises(ValueError, match=match):
        plan_arms([read(PLAIN)], against=[name])


def test_function_without_a_step_is_refused():
    arm = Arm('foreign', 10, foreign='foreign_step:build_nothing')
    with pytest.raises(ValueError, match='returned a NoneType'):
        arm.build(SMALL)


def test_wrong_configs_are_refused(read):
    with pytest.raises(ValueError, match=r'no model=dict\(...\)'):
        plan_arms([read('configs/_base_/cifar100_bs128.py')])
    with pytest.raises(ValueError, match='Leave --method out'):
        plan_arms([read(FRSKD)], methods=['frskd'])
    with pytest.raises(ValueError, match='Given twice'):
        plan_arms([read(FRSKD), read(FRSKD)])


def test_image_size_is_the_configs(read):
    assert find_image_size(read('configs/resnet18_cifar100.py')) == (32, 32)
    coco = read('configs/frskd_retinanet_r50_coco.py')
    assert find_image_size(coco) == (800, 1333)  # scales are (width, height)
    voc = read('configs/mmseg/frskd_pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py')
    assert find_image_size(voc) == (512, 512)
    scenes = read(TASKS['det'])  # its training pipeline names none, that of tests does
    assert find_image_size(scenes) == (64, 64)
    for name in ('train', 'val', 'test'):
        scenes[f'{name}_dataloader'].dataset.pipeline = []
    with pytest.raises(ValueError, match='--image-size'):
        find_image_size(scenes)
    arms = plan_arms([read('configs/resnet18_cifar100.py'), read(PLAIN)])
    with pytest.raises(ValueError, match='different sizes'):
        choose_image_size(arms)


# Sweeps


@pytest.mark.parametrize(
    ('texts', 'match'),
    [
        (['depth', '1'], 'takes one of batch, size'),
        (['batch'], 'needs values'),
        (['batch', '0'], "'0' is not a positive number"),
        (['levels', '1.5'], "'1.5' is not a positive number"),
        (['width', 'wide'], "'wide' is not a positive number"),
    ],
)
def test_wrong_sweeps_are_refused(texts, match):
    with pytest.raises(ValueError, match=match):
        parse_sweep(texts)


def test_sweeps_change_what_they_say(read, arms):
    assert parse_sweep(['width', '1', '0.5']) == ('width', [1, 0.5])
    points = plan_sweep('batch', [1, 4], arms, SMALL)
    assert [point.workload for point in points] == [(1, (16, 16)), (4, (16, 16))]
    points = plan_sweep('size', [8], arms, SMALL)
    assert points[0].workload == (2, (8, 8))
    points = plan_sweep('width', [1, 3], arms, SMALL)
    assert [p.arms[1].cfg.model.distiller.neck.width for p in points] == [1, 3]
    points = plan_sweep('levels', [2], arms, SMALL)
    before = arms[1].cfg.model.student.backbone.out_indices
    assert points[0].arms[1].cfg.model.student.backbone.out_indices == before[-2:]
    assert points[0].arms[0] is arms[0]
    with pytest.raises(ValueError, match='3 levels are refined'):
        plan_sweep('levels', [4], arms, SMALL)
    with pytest.raises(ValueError, match='at least two levels'):
        plan_sweep('levels', [1], arms, SMALL)
    with pytest.raises(ValueError, match='no arm has a method'):
        plan_sweep('width', [1], arms[:1], SMALL)
    seg = plan_arms([read('configs/digits/frskd_fcn_r18-c16_digit-scenes.py')])
    with pytest.raises(ValueError, match='distilled classifiers'):
        plan_sweep('levels', [2], seg, SMALL)
    sla = plan_arms([read(PLAIN)], methods=['sla'])
    with pytest.raises(ValueError, match='a BiFPNc neck'):
        plan_sweep('width', [2], sla, SMALL)


def test_levels_of_a_transformer_are_its_last_ones(read):
    """It returns no map that would be one of them."""
    cfg = read(PLAIN)
    arch = dict(embed_dims=16, num_layers=5, num_heads=2, feedforward_channels=32)
    cfg.model.backbone = dict(
        type='VisionTransformer', arch=arch, img_size=32, patch_size=8
    )
    cfg.model.neck = None
    cfg.model.head.update(type='VisionTransformerClsHead', in_channels=16)
    arms = [Arm('frskd', 10, wrap(cfg))]
    values = [2, 3, 4]
    for value, point in zip(values, plan_sweep('levels', values, arms, SMALL)):
        levels = build_model(point.arms[0].cfg).distiller.levels
        paths = ['layers.0', 'layers.1', 'layers.2', 'layers.4'][-value:]
        assert [stage.path for stage in levels.stages] == paths
    with pytest.raises(ValueError, match='levels 5: 4 levels are refined'):
        plan_sweep('levels', [5], arms, SMALL)
    arms = [Arm('cs-kd', 10, wrap(read(PLAIN), 'cs-kd'))]
    with pytest.raises(ValueError, match='CSKD reads no levels'):
        plan_sweep('levels', [2], arms, SMALL)


def test_levels_beside_a_returned_map(read):
    cfg = read(PLAIN)
    cfg.model.backbone.out_indices = (2,)
    arms = [Arm('frskd', 10, wrap(cfg))]
    for value, point in zip((2, 3), plan_sweep('levels', [2, 3], arms, SMALL)):
        levels = build_model(point.arms[0].cfg).distiller.levels
        assert len(levels.stages) == value
        assert levels.stages[-1].own is not None


# Memory, data, inference


def test_memory_of_a_step_is_seen():
    arm = Arm('foreign', 10, foreign='foreign_step:build')
    found = measure_memory(arm, SMALL)
    assert 60 < found['step'] < 200
    assert found['peak'] > found['step']


def test_failure_in_the_other_process_is_told():
    arm = Arm('foreign', 10, foreign='foreign_step:build_nothing')
    with pytest.raises(RuntimeError, match='returned a NoneType'):
        measure_memory(arm, SMALL)


def test_operators_share_the_whole_time():
    layer, image = nn.Conv2d(8, 8, 3), torch.rand(2, 8, 32, 32)
    rows = profile_operators(lambda: layer(image).relu().sum().backward(), rounds=2)
    assert sum(row['share'] for row in rows) == pytest.approx(1)
    calls = {row['operator']: row['calls'] for row in rows}
    assert calls['aten::convolution_backward'] == 1
    shares = [row['share'] for row in rows if row['operator'] != REST]
    assert shares == sorted(shares, reverse=True)


def test_loader_of_the_config_is_timed(arms):
    cfg = arms[1].cfg
    step = TrainingStep(cfg, SMALL, 10)
    found = measure_loader(cfg, step, batch_size=2, rounds=2)
    assert found['images_per_second'] > 0
    assert found['wait']['median'] > 0
    assert found['step']['median'] > 0
    cfg.train_dataloader = None
    with pytest.raises(ValueError, match='no train_dataloader'):
        measure_loader(cfg, step, batch_size=2, rounds=2)


@pytest.mark.parametrize('task', ['cls', 'det'])
def test_exported_student_is_the_plain_one(read, task):
    workload = Workload(2, (64, 64))
    arms = plan_arms([read(TASKS[task])], methods=['frskd'])
    plain, distilled = configure_arms(arms, workload.image_size)
    found = measure_inference(distilled, plain, workload, rounds=1, warmup=0)
    assert found['identical'] is True
    parameters = found['parameters']
    assert parameters['exported'] == parameters['plain'] < parameters['distilled']
    assert set(found['seconds']) == {'plain', 'exported', 'distilled'}


def test_other_outputs_are_not_identical():
    one = flatten((torch.zeros(2), [dict(a=torch.ones(3))]))
    assert [tensor.shape[0] for tensor in one] == [2, 3]
    other = [one[0], one[1] + 1e-7]
    assert are_identical(dict(a=one, b=[t.clone() for t in one]))
    assert not are_identical(dict(a=one, b=other))
    assert not are_identical(dict(a=one, b=one[:1]))
    assert not are_identical(dict(a=[], b=[]))


# The tool


def test_tool_measures_and_writes(repo, tmp_path):
    (tmp_path / 'theirs.py').write_text((repo / 'tests/foreign_step.py').read_text())
    command = [sys.executable, str(repo / 'tools/benchmark.py'), str(repo / FRSKD)]
    command += ['--image-size', '16', '16', '--steps', '2', '--warmup', '1']
    command += ['--threads', '1', '--against', 'theirs:build', '--inference']
    command += ['--profile']
    command += ['--sweep', 'batch', '2', '--json', 'out.json', '--plot', 'out.png']
    done = subprocess.run(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert 'ours ÷ theirs' in done.stdout
    found = json.loads((tmp_path / 'out.json').read_text())
    assert found['sweep'] == 'batch'
    assert found['environment']['threads'] == 1
    assert (tmp_path / 'out.png').read_bytes().startswith(b'\x89PNG')
    (measurement,) = found['measurements']
    assert measurement['value'] == measurement['batch_size'] == 2
    plain, frskd, theirs = measurement['arms']
    assert set(plain['seconds']) == {*PHASES, 'total'}
    assert len(plain['totals']) == found['steps'] == 2
    assert 'ratio' not in plain
    assert frskd['baseline'] == plain['name']
    ratios = [a / b for a, b in zip(frskd['totals'], plain['totals'])]
    assert frskd['ratio']['median'] == pytest.approx(sum(ratios) / 2)
    assert frskd['flops_ratio'] == frskd['step_flops'] / plain['step_flops'] > 1
    assert frskd['inference_macs'] == plain['inference_macs']
    assert frskd['parameters_inference'] == plain['parameters_training']
    assert frskd['parameters_training'] > plain['parameters_training']
    assert set(frskd['against']) == {'theirs:build'}
    assert set(theirs['seconds']) == {'total'}
    assert all(arm['operators'] for arm in (plain, frskd, theirs))
    assert all(arm['memory_mb']['peak'] > 0 for arm in (plain, frskd, theirs))
    assert measurement['inference'][0]['identical'] is True
    # The same tables and picture come from the file.
    measurements = found['measurements']
    assert report(measurements) in done.stdout
    assert sweep_table('batch', measurements) in done.stdout
    draw_sweep('batch', measurements, str(tmp_path / 'again.png'))
    assert (tmp_path / 'again.png').is_file()


def test_what_was_measured_is_written_before_it_is_shown(tmp_path, monkeypatch):
    path = tmp_path / 'out.json'
    arguments = ['frskd benchmark', 'config', '--json', str(path)]
    monkeypatch.setattr(sys, 'argv', arguments)
    monkeypatch.setattr(benchmark, 'run', lambda args: (None, [dict(value=None)]))
    monkeypatch.setattr(benchmark, 'silence', lambda: None)

    def fail(measurements):
        raise BrokenPipeError  # as of "| head"

    monkeypatch.setattr(benchmark, 'report', fail)
    with pytest.raises(BrokenPipeError):
        benchmark.main()
    assert json.loads(path.read_text())['measurements'] == [dict(value=None)]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--batch-size', '0'], '--batch-size must be 1 or more, not 0'),
        (['--steps', '0'], '--steps must be 1 or more'),
        (['--warmup', '-1'], '--warmup must be 0 or more'),
        (['--threads', '0'], '--threads must be 1 or more, not 0'),
        (['--json', 'no/out.json'], '--json no/out.json: there is no folder'),
        (['--json', '.'], '--json . is a folder'),
        (['--plot', 'a.bmp', '--sweep', 'batch', '1'], 'a.bmp is no picture'),
        (['--plot', 'no/a.png', '--sweep', 'batch', '1'], 'there is no folder'),
        (['--plot', 'out.png'], '--plot draws a --sweep'),
        (['--sweep', 'depth', '1'], 'takes one of batch'),
        (['--against', 'nowhere:build'], "No module named 'nowhere'"),
    ],
)
def test_tool_refuses(repo, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', str(repo / PLAIN), *arguments])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(repo / 'tools/benchmark.py'), run_name='__main__')
    assert message in f'{stop.value} {capsys.readouterr().err}'


def test_an_output_is_tried_without_a_trace(tmp_path):
    new, old = tmp_path / 'new.json', tmp_path / 'old.json'
    old.write_text('{}')
    check_output('--json', str(new))
    check_output('--json', str(old))
    check_output('--json', None)
    assert not new.exists()
    assert old.read_text() == '{}'
    with pytest.raises(OSError, match=r'--json .* cannot be written: .*\.'):
        check_output('--json', '/proc/self/no.json')  # nobody may


def test_config_is_left_as_it_is(read):
    cfg = read(FRSKD)
    text = Config(cfg._cfg_dict.to_dict()).pretty_text
    configure(cfg, (8, 8), compiled=True, channels_last=True)
    assert Config(cfg._cfg_dict.to_dict()).pretty_text == text
