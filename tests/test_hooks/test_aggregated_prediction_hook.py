"""Test-time prediction from four rotations, in a real runner."""

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from mmengine.runner import Runner, save_checkpoint

from frskd_mm.engine import evaluate
from frskd_mm.engine.export import student_weights


@METRICS.register_module()
class KeepScores(BaseMetric):
    """Hands out the predicted scores."""

    def process(self, data_batch, data_samples):
        self.results += [sample['pred_score'] for sample in data_samples]

    def compute_metrics(self, results):
        return dict(scores=torch.stack(results))


def build_runner(work_dir, method, settings=None, **cfg):
    """A runner that tests an untrained model on a few embedded digits."""
    return Runner.from_cfg(config(work_dir, method, settings, **cfg))


def config(work_dir, method, distiller=None, **cfg):
    settings = dict(
        model=dict(
            type='frskd_mm.Distilled',
            student=dict(
                type='ImageClassifier',
                backbone=dict(
                    type='frskd_mm.WideResNet',
                    depth=10,
                    widen_factor=1,
                    out_indices=(0, 1, 2),
                ),
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
            ),
            distiller=dict(type=f'frskd_mm.{method}', **(distiller or {})),
        ),
        data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3, num_classes=10),
        work_dir=str(work_dir),
        test_dataloader=dict(
            batch_size=8,
            num_workers=0,
            collate_fn=dict(type='default_collate'),
            dataset=dict(
                type='frskd_mm.Digits',
                split='test',
                num_per_class=1,
                size=8,
                pipeline=[dict(type='PackInputs')],
            ),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        test_cfg=dict(),
        test_evaluator=dict(type='KeepScores'),
        default_scope='mmpretrain',
        experiment_name=f'{work_dir.name}_{len(cfg)}',
        log_level='ERROR',
        **cfg,
    )
    return Config(settings)


def test_the_hook_predicts_from_four_rotations(tmp_path):
    runner = build_runner(tmp_path, 'SLA')
    plain = runner.test()['scores']
    hook = dict(type='frskd_mm.AggregatedPredictionHook')
    hooked = build_runner(tmp_path, 'SLA', custom_hooks=[hook])
    hooked.model.load_state_dict(runner.model.state_dict())
    aggregated = hooked.test()['scores']

    model, expected = hooked.model, []
    for batch in hooked.test_dataloader:
        data = model.data_preprocessor(batch)
        with torch.no_grad():
            predicted = model.distiller.joint_head.predict(model, **data)
        expected += [sample.pred_score for sample in predicted]
    assert torch.equal(aggregated, torch.stack(expected))
    assert not torch.allclose(aggregated, plain)
    # Afterwards the student predicts again.
    assert 'predict' not in vars(model)


def test_the_self_teacher_predicts_where_it_is_asked_to(tmp_path):
    frskd = dict(
        neck=dict(type='frskd_mm.BiFPNc'),
        soft_label=dict(type='frskd_mm.SoftLabelLoss'),
        feature_loss=dict(type='frskd_mm.AttentionTransferLoss'),
    )
    runner = build_runner(tmp_path, 'FRSKDSLA', frskd)
    hook = dict(type='frskd_mm.AggregatedPredictionHook')
    hooked = build_runner(tmp_path, 'FRSKDSLA', frskd, custom_hooks=[hook])
    hooked.model.load_state_dict(runner.model.state_dict())
    with runner.model.as_self_teacher():
        expected = runner.test()['scores']
    with hooked.model.as_self_teacher():
        assert torch.equal(hooked.test()['scores'], expected)
        assert torch.equal(hooked.test()['scores'], expected)
    assert not torch.allclose(hooked.test()['scores'], expected)
    assert 'predict' not in vars(hooked.model)


def test_models_without_a_joint_head_are_refused(tmp_path):
    hook = dict(type='frskd_mm.AggregatedPredictionHook')
    runner = build_runner(tmp_path, 'TfKDReg', custom_hooks=[hook])
    with pytest.raises(TypeError, match='without a joint head'):
        runner.test()


def test_an_exported_student_has_no_joint_head_to_aggregate_by(tmp_path):
    hook = dict(type='frskd_mm.AggregatedPredictionHook')
    runner = build_runner(tmp_path, 'SLA', custom_hooks=[hook])
    whole, alone = str(tmp_path / 'whole.pth'), str(tmp_path / 'alone.pth')
    weights = runner.model.state_dict()
    save_checkpoint(dict(state_dict=weights, meta={}), whole)
    save_checkpoint(dict(state_dict=student_weights(weights), meta={}), alone)
    cfg = config(tmp_path, 'SLA', custom_hooks=[hook])
    assert 'scores' in evaluate(cfg, whole)
    with pytest.raises(ValueError, match='joint head, which the checkpoint does not'):
        evaluate(cfg, alone)
