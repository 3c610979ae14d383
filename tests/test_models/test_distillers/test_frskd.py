"""FRSKD: its terms, whom they train, and a whole training step."""

from copy import deepcopy

import pytest
import reference
import torch
from contracts import Case, DistillerContract
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.runner import Runner
from toys import toy_batch, toy_distilled, toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.distillers import FRSKD


def wrn_cfg(num_classes=5, neck='BiFPNc', drop_rate=0.0, **frskd):
    """Config of a distilled WRN-10-1."""
    cfg = dict(
        type='frskd_mm.Distilled',
        student=dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='frskd_mm.WideResNet',
                depth=10,
                widen_factor=1,
                drop_rate=drop_rate,
                out_indices=(0, 1, 2),
            ),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=num_classes, in_channels=64),
        ),
        distiller=toy_frskd_cfg(**frskd),
    )
    cfg['distiller']['neck'] = dict(type=f'frskd_mm.{neck}')
    if neck == 'BiFPN':
        cfg['distiller']['neck']['out_channels'] = 12
    return cfg


class FRSKDContract(DistillerContract):
    """The four terms; the data of a case are the name of L_F."""

    component = FRSKD
    parts = {
        'distiller.self_teacher.neck.': 'self_teacher_neck',
        'distiller.self_teacher.twin.head.': 'self_teacher_head',
        'distiller.feature_loss.': 'adapters',
    }
    for_dense_prediction = True
    feature_reaches = frozenset({'backbone'})

    def student_feats(self, model, images):
        """Return F, by one pass through the backbone."""
        return model.backbone(images)

    def feature_term(self, model, feats, refined):
        """Return the name and the unweighted value of L_F."""
        raise NotImplementedError

    def refined(self, model, feats):
        if model.distiller.detach_inputs:
            feats = [feat.detach() for feat in feats]
        return model.distiller.self_teacher.neck(feats)

    def expected(self, model, images, data_samples):
        labels = [sample.gt_label.item() for sample in data_samples]
        alpha = model.distiller.soft_label.loss_weight
        twin = model.distiller.self_teacher.twin
        feats = self.student_feats(model, images)
        refined = self.refined(model, feats)
        z_s = reference.classify(feats[-1], model.head.fc.weight, model.head.fc.bias)
        z_t = reference.classify(refined[-1], twin.head.fc.weight, twin.head.fc.bias)
        name, value = self.feature_term(model, feats, refined)
        return {
            'student.loss': reference.cross_entropy(z_s, labels),
            'self_teacher.loss': reference.cross_entropy(z_t, labels),
            'loss_kd': alpha * reference.soft_label(z_s, z_t, 4.0),
            name: model.distiller.feature_loss.loss_weight * value,
        }

    def reaches(self, case):
        attached = not case.settings.get('detach_inputs', True)
        teacher = {'self_teacher_neck', 'self_teacher_head'}
        return {
            'student.loss': {'backbone', 'head'},
            'self_teacher.loss': teacher | ({'backbone'} if attached else set()),
            'loss_kd': {'backbone', 'head'},
            case.data: set(self.feature_reaches),
        }


class TestFRSKD(FRSKDContract):
    cases = {
        'detached': Case(toy_frskd_cfg(alpha=3.0, beta=70.0), 'loss_at'),
        'attached': Case(toy_frskd_cfg(detach_inputs=False), 'loss_at'),
        'BiFPN': Case(
            dict(toy_frskd_cfg(), neck=dict(type='frskd_mm.BiFPN', out_channels=12)),
            'loss_at',
        ),
    }
    main = ['detached', 'attached']
    graphs = 1
    wrong_settings = [
        (
            dict(
                feature_loss=dict(
                    type='frskd_mm.AttentionTransferLoss', reduction='max'
                )
            ),
            "reduction of .* must be one of .* got 'max'",
        )
    ]

    def feature_term(self, model, feats, refined):
        return 'loss_at', reference.attention_transfer(feats, refined, 'mean')


def test_default_is_detached():
    assert toy_distilled().distiller.detach_inputs is True


def test_terms_and_logged_values():
    losses = toy_distilled()(**toy_batch(), mode='loss')
    assert set(losses) == {
        'student.loss',
        'self_teacher.loss',
        'loss_kd',
        'loss_at',
        'student.acc',
        'self_teacher.acc',
        'student.task',
    }


def plain_total(model, batch, labels, neck, detach_inputs):
    """The method's loss from parameters alone, by the plain equations."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    backbone = {
        name[len('backbone.') :]: tensor
        for name, tensor in tensors.items()
        if name.startswith('backbone.')
    }
    feats = reference.wide_resnet(batch['inputs'], backbone, training=True)
    z_s = reference.classify(
        feats[-1], tensors['head.fc.weight'], tensors['head.fc.bias']
    )
    refined = reference.bifpn(
        [feat.detach() for feat in feats] if detach_inputs else feats,
        reference.neck_params(neck),
    )
    twin = 'distiller.self_teacher.twin.head.fc.'
    z_t = reference.classify(
        refined[-1], tensors[f'{twin}weight'], tensors[f'{twin}bias']
    )
    return (
        reference.cross_entropy(z_s, labels)
        + reference.cross_entropy(z_t, labels)
        + 2.0 * reference.soft_label(z_s, z_t, 4.0)
        + 100.0 * reference.attention_transfer(feats, refined, 'mean')
    )


@pytest.mark.parametrize('neck', ['BiFPNc', 'BiFPN'])
@pytest.mark.parametrize('detach_inputs', [True, False])
def test_optimiser_steps_equal_a_plain_training_loop(neck, detach_inputs):
    model = ROOT_MODELS.build(wrn_cfg(neck=neck, detach_inputs=detach_inputs))
    model.init_weights()
    model.double()
    wrapper = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
    )
    batch = toy_batch(size=3)
    batch['inputs'] = batch['inputs'].double()
    labels = [sample.gt_label.item() for sample in batch['data_samples']]
    names = [name for name, _ in model.named_parameters()]
    velocities = [torch.zeros_like(param) for param in model.parameters()]
    for _ in range(2):
        start = [param.detach().clone() for param in model.parameters()]
        total = plain_total(
            model, batch, labels, model.distiller.self_teacher.neck, detach_inputs
        )
        grads = torch.autograd.grad(total, list(model.parameters()))
        expected, velocities = reference.sgd_step(
            start, grads, velocities, lr=0.1, momentum=0.9, weight_decay=1e-2
        )

        loss, _ = model.parse_losses(model(**batch, mode='loss'))
        wrapper.update_params(loss)
        for name, param, wanted, before in zip(
            names, model.parameters(), expected, start
        ):
            # The two distillation terms are computed in fp32.
            moved = (wanted - before).abs().max().item()
            torch.testing.assert_close(
                param.detach(),
                wanted,
                rtol=0,
                atol=1e-5 * moved + 1e-9,
                msg=lambda m, n=name: f'{n}: {m}',
            )


class NoisyImages(torch.utils.data.Dataset):
    """Images and labels, with noise from the global generator."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        image = torch.full((3, 16, 16), index / 10) + torch.randn(3, 16, 16)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 5))


class Trajectory(Hook):
    """Keeps the student's weights and the loss of each step."""

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        loss = outputs.get('student.loss', outputs['loss'])
        student = {
            name: value.clone()
            for name, value in runner.model.state_dict().items()
            if not name.startswith('distiller.')
        }
        self.steps.append((loss.item(), student))


def trajectory(model, work_dir, hook=None):
    """Train 20 steps as tools/train.py does and return every one of them."""
    hook = hook or Trajectory()
    Runner(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=NoisyImages(),
            batch_size=5,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=5),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=1e-4)
        ),
        custom_hooks=[hook],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=-1)),
        default_scope='mmpretrain',
        randomness=dict(seed=3),
        log_level='ERROR',
        experiment_name=work_dir.name,
    ).train()
    return hook.steps


# Every way of a student to use the global generators during training and init.
STUDENTS = {
    'dropout': dict(),
    'mixup': dict(
        train_cfg=dict(augments=dict(type='Mixup', alpha=0.2)),
        data_preprocessor=dict(num_classes=5),
    ),
    'init_cfg': dict(init_cfg=dict(type='Normal', layer=['Conv2d', 'Linear'], std=0.1)),
}


@pytest.mark.parametrize('student', STUDENTS)
@pytest.mark.parametrize(
    'frskd',
    [
        dict(alpha=0, beta=0, self_teacher_loss_weight=0),
        dict(alpha=0, beta=0, self_teacher_loss_weight=1, detach_inputs=True),
    ],
    ids=['off', 'self_teacher_only'],
)
def test_without_distillation_training_is_upstreams_bit_for_bit(
    frskd, student, tmp_path
):
    cfg = wrn_cfg(drop_rate=0.3, **frskd)
    cfg['student'].update(STUDENTS[student])
    plain = trajectory(cfg['student'], tmp_path / 'plain')
    distilled = trajectory(cfg, tmp_path / 'distilled')
    assert len(plain) == len(distilled) == 20
    assert plain[0][0] != plain[-1][0]
    for step, ((loss, weights), (loss2, weights2)) in enumerate(zip(plain, distilled)):
        assert weights.keys() == weights2.keys()
        for name, value in weights.items():
            assert torch.equal(value, weights2[name]), f'step {step}: {name}'
        assert loss == loss2, f'step {step}'


def test_switched_off_it_computes_and_trains_nothing():
    model = toy_distilled(alpha=0, beta=0, self_teacher_loss_weight=0)
    before = {k: v.clone() for k, v in model.distiller.state_dict().items()}
    losses = model(**toy_batch(), mode='loss')
    assert set(losses) == {'student.loss', 'student.task'}
    assert not any(param.requires_grad for param in model.distiller.parameters())
    for name, value in model.distiller.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_without_beta_no_attention_map_is_computed(monkeypatch):
    model = toy_distilled(beta=0.0)

    def fail(*args):
        raise AssertionError('an attention map was computed')

    monkeypatch.setattr(
        'frskd_mm.models.losses.attention_transfer_loss.attention_map', fail
    )
    losses = model(**toy_batch(), mode='loss')
    assert 'loss_kd' in losses
    assert 'loss_at' not in losses
    with pytest.raises(AssertionError, match='attention map'):
        toy_distilled()(**toy_batch(), mode='loss')


def test_without_alpha_there_is_no_soft_label():
    losses = toy_distilled(alpha=0.0)(**toy_batch(), mode='loss')
    assert 'loss_at' in losses
    assert 'loss_kd' not in losses


def test_self_teacher_loss_weight_scales_its_loss():
    batch, values = toy_batch(), []
    for weight in (1.0, 0.25):
        torch.manual_seed(4)
        model = toy_distilled(self_teacher_loss_weight=weight)
        values.append(model(**batch, mode='loss'))
    torch.testing.assert_close(
        values[1]['self_teacher.loss'], 0.25 * values[0]['self_teacher.loss']
    )
    assert torch.equal(values[1]['self_teacher.acc'], values[0]['self_teacher.acc'])


def test_weight_schedule_scales_alpha_and_beta():
    batch, values = toy_batch(), []
    for schedule in (None, dict(ramp='sigmoid', ramp_end=2), dict(begin=1)):
        torch.manual_seed(4)
        model = toy_distilled(weight_schedule=schedule)
        values.append(model(**batch, mode='loss'))
    constant, ramped, delayed = values
    factor = reference.sigmoid_ramp(0, warmup=0, epochs=2)
    for name in ('loss_kd', 'loss_at'):
        torch.testing.assert_close(ramped[name], factor * constant[name])
        assert name not in delayed
    for name in ('student.loss', 'self_teacher.loss'):
        assert torch.equal(ramped[name], constant[name])
        assert torch.equal(delayed[name], constant[name])


@pytest.mark.parametrize('interval', [2, 3])
def test_every_kth_iteration_has_k_times_the_terms(interval):
    batch, hub = toy_batch(), MessageHub.get_current_instance()
    torch.manual_seed(4)
    every = toy_distilled()(**batch, mode='loss')
    torch.manual_seed(4)
    model = toy_distilled(interval=interval)
    sums = dict.fromkeys(every, 0.0)
    for iteration in range(2 * interval):
        hub.update_info('iter', iteration)
        self_teacher = deepcopy(model.distiller.state_dict())
        losses = model(**batch, mode='loss')
        if iteration % interval:
            assert set(losses) == {'student.loss', 'student.task'}
            for name, value in model.distiller.state_dict().items():
                assert torch.equal(value, self_teacher[name]), name
        for name, value in losses.items():
            sums[name] = sums[name] + value
    for name in ('student.loss', 'self_teacher.loss', 'loss_kd', 'loss_at'):
        torch.testing.assert_close(sums[name], 2 * interval * every[name])
    torch.testing.assert_close(sums['self_teacher.acc'], 2 * every['self_teacher.acc'])


class Terms(Hook):
    """Note in which steps there was a soft-label term."""

    def __init__(self):
        self.steps = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.steps.append('loss_kd' in outputs)


def test_a_training_with_an_interval_counts_its_iterations(tmp_path):
    """Across epochs of four iterations."""
    steps = trajectory(wrn_cfg(interval=3), tmp_path, Terms())
    assert steps == [iteration % 3 == 0 for iteration in range(20)]


@pytest.mark.parametrize('setting', [dict(interval=2), dict(student_factor=0.5)])
def test_sla_does_without_what_does_not_suit_its_joint_heads(setting):
    cfg = dict(
        type='frskd_mm.Distilled',
        student=toy_student_cfg(),
        distiller={**toy_frskd_cfg(**setting), 'type': 'frskd_mm.FRSKDSLA'},
    )
    with pytest.raises(ValueError, match=f'FRSKDSLA has no {next(iter(setting))}'):
        ROOT_MODELS.build(cfg)


def gradients_of_a_step(iteration=0, **frskd):
    MessageHub.get_current_instance().update_info('iter', iteration)
    torch.manual_seed(4)
    model = toy_distilled(**frskd)
    model.parse_losses(model(**toy_batch(), mode='loss'))[0].backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize('detach_inputs', [True, False])
def test_the_students_factor_is_on_all_gradients_of_the_student_alone(detach_inputs):
    whole = gradients_of_a_step(detach_inputs=detach_inputs)
    third = gradients_of_a_step(detach_inputs=detach_inputs, student_factor=1 / 3)
    for name, gradient in whole.items():
        factor = 1 if name.startswith('distiller.') else 1 / 3
        torch.testing.assert_close(third[name], factor * gradient, msg=name)


def test_the_students_factor_also_acts_where_the_self_teacher_rests():
    whole = gradients_of_a_step(iteration=1, interval=2)
    half = gradients_of_a_step(iteration=1, interval=2, student_factor=0.5)
    for name, gradient in whole.items():
        if name.startswith('distiller.'):
            assert gradient is None
            assert half[name] is None
        else:
            torch.testing.assert_close(half[name], gradient / 2, msg=name)


def test_the_students_factor_changes_no_values():
    torch.manual_seed(4)
    whole = toy_distilled(detach_inputs=False)(**toy_batch(), mode='loss')
    torch.manual_seed(4)
    scaled = toy_distilled(detach_inputs=False, student_factor=0.1)(
        **toy_batch(), mode='loss'
    )
    assert torch.equal(scaled['self_teacher.loss'], whole['self_teacher.loss'])
    assert torch.equal(scaled['student.task'], whole['student.task'])
    for name in ('student.loss', 'loss_kd', 'loss_at'):
        torch.testing.assert_close(scaled[name], 0.1 * whole[name])


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
@pytest.mark.parametrize('detach_inputs', [True, False])
def test_trains_on_mixed_images(augment, detach_inputs):
    student = toy_student_cfg()
    student['train_cfg'] = dict(augments=dict(type=augment, alpha=1.0))
    student['data_preprocessor'] = dict(num_classes=10)
    cfg = toy_frskd_cfg(detach_inputs=detach_inputs)
    model = ROOT_MODELS.build(
        dict(type='frskd_mm.Distilled', student=student, distiller=cfg)
    )
    model.init_weights()
    before = {name: param.clone() for name, param in model.named_parameters()}
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    log = model.train_step(toy_batch(), wrapper)
    assert set(log) == {
        'loss',
        'student.loss',
        'self_teacher.loss',
        'loss_kd',
        'loss_at',
        'student.acc',
        'self_teacher.acc',
        'student.task_loss',
    }
    assert torch.isfinite(log['loss'])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {'backbone.conv1.weight', 'head.fc.weight'} <= moved
    assert 'distiller.self_teacher.twin.head.fc.weight' in moved
    assert 'distiller.self_teacher.neck.layers.0.laterals.0.0.weight' in moved


def test_batch_of_one_trains():
    losses = toy_distilled()(**toy_batch(1, 32, 32), mode='loss')
    assert all(torch.isfinite(value).all() for value in losses.values())


def test_unknown_loss_names_the_registry():
    cfg = toy_frskd_cfg()
    cfg['feature_loss'] = dict(type='frskd_mm.AttentionTransfer')
    with pytest.raises(KeyError, match='AttentionTransfer is not in the'):
        ROOT_MODELS.build(
            dict(type='frskd_mm.Distilled', student=toy_student_cfg(), distiller=cfg)
        )
