"""Gradient accumulation and the scaling of the learning rate, with distillers."""

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from toys import toy_batch, toy_frskd_cfg, toy_student_cfg

from frskd_mm.engine import configure_run, load_config
from frskd_mm.engine.runs import build_runner

DIGITS = Path(__file__).resolve().parents[2] / 'configs/digits/frskd_wrn10-1_digits.py'
GN = dict(type='GN', num_groups=4)
FITNET = dict(type='frskd_mm.FitNetLoss', loss_weight=10.0, norm_cfg=GN)


def build(**changes):
    distiller = {**toy_frskd_cfg(), **changes}
    distiller['neck'] = dict(type='frskd_mm.BiFPNc', norm_cfg=GN)
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=toy_student_cfg(norm_cfg=GN),
            distiller=distiller,
        )
    )
    model.init_weights()
    return model.train()


def step(model, batches):
    """Take one optimiser step; return the gradients and the logged terms."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer, accumulative_counts=len(batches))
    wrapper.initialize_count_status(model, init_counts=0, max_counts=len(batches))
    grads, logs = {}, []
    optimizer.register_step_pre_hook(
        lambda *args: grads.update(
            {name: p.grad.clone() for name, p in model.named_parameters()}
        )
    )
    for batch in batches:
        with wrapper.optim_context(model):
            total, logged = model.parse_losses(model(**batch, mode='loss'))
        wrapper.update_params(total)
        logs.append({name: float(value) for name, value in logged.items()})
    return grads, logs


@pytest.mark.parametrize(
    ('changes', 'term'),
    [(dict(), 'loss_at'), (dict(feature_loss=FITNET), 'loss_fitnet')],
)
def test_small_batches_accumulate_to_the_gradient_of_a_large_one(changes, term):
    model = build(**changes)
    batch = toy_batch(size=6)
    parts = [
        {key: value[i : i + 2] for key, value in batch.items()} for i in range(0, 6, 2)
    ]
    small, logs = step(deepcopy(model), parts)
    large, (whole,) = step(model, [batch])
    for key in ('student.loss', 'self_teacher.loss', 'loss_kd', term):
        assert whole[key] > 0
        assert sum(part[key] for part in logs) / 3 == pytest.approx(
            whole[key], rel=1e-3
        )
    for name, grad in large.items():
        torch.testing.assert_close(
            small[name],
            grad,
            rtol=1e-3,
            atol=1e-4 * float(grad.abs().max()) + 1e-7,
            msg=lambda text, name=name: f'{name}: {text}',
        )


def test_learning_rate_and_schedule_count_batches_not_optimiser_steps(tmp_path):
    """--auto-scale-lr and the weight schedule, while gradients accumulate."""
    options = {
        'optim_wrapper.accumulative_counts': 2,
        'optim_wrapper.optimizer.lr': 0.01,
        'auto_scale_lr.base_batch_size': 4,
        'model.distiller.weight_schedule': dict(begin=0.5, by_epoch=False),
        'train_dataloader.batch_size': 8,
        'train_dataloader.dataset.num_per_class': 3,  # 30 images, 4 batches
        'train_cfg.max_epochs': 1,
        'default_hooks.logger.interval': 1,
        'log_processor.window_size': 1,
    }
    cfg = load_config(str(DIGITS), options)
    configure_run(cfg, work_dir=str(tmp_path), auto_scale_lr=True, validate=False)
    build_runner(cfg).train()

    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(steps) == 4
    # 8 images a batch instead of 4, however many are accumulated.
    assert [step['lr'] for step in steps] == pytest.approx([0.02] * 4)
    assert ['loss_kd' in step for step in steps] == [False, False, True, True]
