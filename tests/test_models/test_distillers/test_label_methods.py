"""PS-KD, Tf-KD-reg and label smoothing: the methods that change the targets."""

from typing import Any, Dict, Sequence

import pytest
import torch
from comparators import (
    cross_entropy,
    distilled,
    labels_of,
    logits_of,
)
from contracts import Case, DistillerContract, assert_parity
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from torch import Tensor, nn
from toys import toy_batch

from frskd_mm.engine import train, wrap
from frskd_mm.models.distillers import PSKD, TfKDReg

CLASSES = 10


def ps_kd(num_samples: int = 20, **cfg: Any) -> nn.Module:
    return distilled(dict(type='frskd_mm.PSKD', num_samples=num_samples, **cfg))


def batch_of(ids: Sequence[int], **sizes: int) -> Dict[str, Any]:
    """Random images; sample i has label i % 10 whenever it comes."""
    batch = toy_batch(len(ids), **sizes)
    for index, sample in zip(ids, batch['data_samples']):
        sample.set_metainfo(dict(sample_idx=index))
        sample.set_gt_label(torch.tensor([index % CLASSES]))
    return batch


def set_epoch(epoch: int, max_epochs: int) -> None:
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', epoch)
    hub.update_info('max_epochs', max_epochs)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    return -(targets * torch.log_softmax(logits, dim=1)).mean(0).sum()


@pytest.mark.parametrize('alpha', [0.8, 0.3])
def test_ps_kd_equals_its_equation_in_any_order(alpha: float):
    """Three batches of two epochs; the dictionary is the reference's memory."""
    model, memory = ps_kd(alpha=alpha), {}
    for epoch, ids in [(0, [3, 8, 5]), (0, [11, 2, 0]), (1, [0, 5, 17, 8])]:
        set_epoch(epoch, max_epochs=4)
        batch = batch_of(ids)
        alpha_t = alpha * (epoch + 1) / 4
        probs = {}

        def reference(copy, images, samples, ids=ids, alpha_t=alpha_t, probs=probs):
            logits = logits_of(copy, images)
            one_hot = torch.eye(CLASSES)[labels_of(samples)]
            past = torch.stack([memory.get(i, t) for i, t in zip(ids, one_hot)])
            targets = (1 - alpha_t) * one_hot + alpha_t * past
            probs.update(zip(ids, logits.detach().softmax(dim=1)))
            whole = soft_cross_entropy(logits, targets)
            share = (1 - alpha_t) * soft_cross_entropy(logits, one_hot)
            return {'student.loss': share, 'loss_ps_kd': whole - share}

        assert_parity(model, batch, reference)
        memory.update(probs)
        model.zero_grad(set_to_none=True)
    assert set(model.distiller.predictions.sum(dim=1).nonzero().flatten().tolist()) == (
        set(memory)
    )
    for index, probs in memory.items():
        torch.testing.assert_close(model.distiller.predictions[index], probs)


def runner_cfg(work_dir: Any, max_epochs: int, resume: bool = False) -> Dict[str, Any]:
    """A real run on the embedded digits, shuffled anew each epoch."""
    return dict(
        model=dict(
            type='frskd_mm.Distilled',
            student=dict(
                type='ImageClassifier',
                backbone=dict(type='frskd_mm.WideResNet', depth=10, widen_factor=1),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
            ),
            distiller=dict(type='frskd_mm.PSKD', num_samples=40),
        ),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=10),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=16,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='frskd_mm.Digits',
                num_per_class=4,
                size=8,
                pipeline=[dict(type='PackInputs')],
            ),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        custom_hooks=[dict(type='frskd_mm.EpochSeedHook')],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        resume=resume,
        randomness=dict(seed=0),
        default_scope='mmpretrain',
        experiment_name=f'{work_dir.name}_{resume}',
        log_level='ERROR',
    )


class StopInThirdEpoch(Hook):
    """Interrupt a run after some iterations of the third epoch."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.epoch == 2 and batch_idx == 1:
            raise KeyboardInterrupt


def test_a_resumed_ps_kd_run_equals_the_uninterrupted_one(tmp_path):
    whole = Runner.from_cfg(runner_cfg(tmp_path / 'whole', max_epochs=3))
    whole.train()
    first = Runner.from_cfg(runner_cfg(tmp_path / 'parts', max_epochs=3))
    first.register_hook(StopInThirdEpoch())
    with pytest.raises(KeyboardInterrupt):
        first.train()
    second = Runner.from_cfg(runner_cfg(tmp_path / 'parts', max_epochs=3, resume=True))
    second.train()
    expected, got = whole.model.state_dict(), second.model.state_dict()
    assert (expected['distiller.predictions'].sum(dim=1) > 0).all()
    assert expected.keys() == got.keys()
    for key in expected:
        assert torch.equal(expected[key], got[key]), key


def test_ps_kd_says_what_is_missing():
    with pytest.raises(ValueError, match="add 'sample_idx' to the meta_keys"):
        ps_kd().loss(**toy_batch(2))
    with pytest.raises(ValueError, match='sample_idx 20 .* num_samples=20'):
        ps_kd().loss(**batch_of([3, 20]))


def concatenated(dataset: Dict[str, Any]) -> Dict[str, Any]:
    """Two parts of equal size whose images have other labels at equal indices."""
    parts = [dict(dataset, indices=indices) for indices in (20, -20)]
    return dict(type='ConcatDataset', datasets=parts)


@pytest.mark.parametrize('wrapper', [None, dict(type='RepeatDataset', times=2)])
def test_ps_kd_refuses_rows_of_several_images(tmp_path, wrapper):
    cfg = Config(runner_cfg(tmp_path / 'run', max_epochs=3))
    dataset = concatenated(cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = (
        {**wrapper, 'dataset': dataset} if wrapper else dataset
    )
    with pytest.raises(
        ValueError, match='PSKD .* the ConcatDataset of train_dataloader'
    ):
        train(cfg)
    plain = Config({**cfg, 'model': cfg.model.student})
    with pytest.raises(
        ValueError, match='PSKD .* the ConcatDataset of train_dataloader'
    ):
        wrap(plain, 'ps-kd')
    assert wrap(plain, 'tf-kd').train_dataloader == cfg.train_dataloader
    with pytest.raises(ValueError, match=r'sample_idx \d+ belongs to several images'):
        Runner.from_cfg(cfg).train()


def test_ps_kd_takes_repeated_images(tmp_path):
    cfg = Config(runner_cfg(tmp_path / 'run', max_epochs=2))
    dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dataset
    train(cfg)


@pytest.mark.parametrize('differ', ['in the batch', 'between batches', 'by file'])
def test_ps_kd_knows_its_images_by_file_and_label(differ):
    model, batch = ps_kd(), batch_of([3, 8])
    model.loss(**batch)
    other = batch_of([8, 3])
    model.loss(**other)
    samples = other['data_samples']
    if differ == 'in the batch':
        other = batch_of([5, 5])
        other['data_samples'][0].set_gt_label(torch.tensor([6]))
    elif differ == 'between batches':
        samples[1].set_gt_label(torch.tensor([6]))
    else:
        for sample in samples:
            sample.set_metainfo(dict(img_path='another.png'))
    with pytest.raises(ValueError, match=r'sample_idx \d belongs to several images'):
        model.loss(**other)


def test_ps_kd_refuses_mixed_images():
    batch = batch_of([3, 8])
    for sample in batch['data_samples']:
        sample.set_gt_score(torch.full((CLASSES,), 1 / CLASSES))
    with pytest.raises(ValueError, match='PSKD compares images .* Mixup'):
        ps_kd().loss(**batch)


def test_ps_kd_counts_iterations_where_epochs_are_not_counted(tmp_path):
    cfg = runner_cfg(tmp_path, max_epochs=1)
    cfg['train_cfg'] = dict(by_epoch=False, max_iters=6)
    runner, alphas = Runner.from_cfg(cfg), []

    class Spy(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            alphas.append(float(outputs['alpha']))

    runner.register_hook(Spy())
    runner.train()
    assert alphas == pytest.approx([0.8 * t / 6 for t in range(1, 7)])


class TestTfKDReg(DistillerContract):
    component = TfKDReg
    cases = {
        'default': Case(dict(), None),
        'softer': Case(dict(alpha=0.5, temperature=2.0, correct_prob=0.9), None),
        'both': Case(dict(student_temperature=20.0, loss_weight=3.0), None),
    }
    main = ['default']
    graphs = 1
    wrong_settings = [
        (dict(correct_prob=1.5), 'correct_prob of TfKDReg must be within'),
        (dict(temperature=0.0), 'temperature of TfKDReg must be positive'),
    ]

    def expected(self, model, images, data_samples):
        cfg, logits = model.distiller, logits_of(model, images)
        divergence = 0.0
        for row, label in zip(logits, labels_of(data_samples)):
            virtual = torch.full_like(row, (1 - cfg.correct_prob) / (CLASSES - 1))
            virtual[label] = cfg.correct_prob
            target = (virtual / cfg.temperature).softmax(dim=0)
            log_probs = (row / cfg.student_temperature).log_softmax(dim=0)
            divergence = divergence + (target * (target.log() - log_probs)).sum()
        return {
            'student.loss': (1 - cfg.alpha) * cross_entropy(logits, data_samples),
            'loss_tf_kd': cfg.alpha * cfg.loss_weight * divergence / len(logits),
        }

    def reaches(self, case):
        return dict.fromkeys(('student.loss', 'loss_tf_kd'), {'backbone', 'head'})


class TestPSKD(DistillerContract):
    """Of its first batch; later ones, in any order, are shown above."""

    component = PSKD
    cases = {
        'default': Case(dict(num_samples=20), None),
        'other': Case(dict(num_samples=20, alpha=0.3), None),
    }
    main = ['default']
    wrong_settings = [(dict(alpha=1.2), 'alpha of PSKD must be within')]

    def batch(self, size=4, **sizes):
        return batch_of(range(size), **sizes)

    def expected(self, model, images, data_samples):
        logits = logits_of(model, images)
        one_hot = torch.eye(CLASSES).to(logits)[labels_of(data_samples)]
        share = 1 - model.distiller.alpha / 1
        loss = soft_cross_entropy(logits, one_hot)
        return {'student.loss': share * loss, 'loss_ps_kd': (1 - share) * loss}

    def reaches(self, case):
        return dict.fromkeys(('student.loss', 'loss_ps_kd'), {'backbone', 'head'})


def test_label_smoothing_of_the_host_is_the_usual_one():
    from mmpretrain.models.losses import LabelSmoothLoss

    logits, labels = torch.randn(5, CLASSES), torch.tensor([0, 3, 9, 3, 1])
    loss = LabelSmoothLoss(label_smooth_val=0.1, num_classes=CLASSES)
    targets = 0.9 * torch.eye(CLASSES)[labels] + 0.1 / CLASSES
    torch.testing.assert_close(
        loss(logits, labels), soft_cross_entropy(logits, targets)
    )
