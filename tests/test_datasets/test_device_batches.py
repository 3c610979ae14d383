"""Batches that are augmented on a device are those of the pipeline."""

import numpy as np
import pytest
import torch
from mmengine.registry import TRANSFORMS
from mmengine.runner import Runner

from frskd_mm.datasets.device_batches import DeviceBatches
from frskd_mm.engine import load_config
from frskd_mm.engine.runs import build_runner

PIPELINE = [
    dict(type='mmpretrain.RandomCrop', crop_size=8, padding=2),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]


def build(*pipeline, device='cpu'):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    transforms = [TRANSFORMS.build(cfg) for cfg in pipeline]
    return images, transforms, DeviceBatches(images, [*range(6)], transforms, device)


def test_images_are_those_of_the_pipeline(monkeypatch):
    images, (crop, flip, pack), batches = build(*PIPELINE)
    indices = [3, 0, 3, 5]
    draws = batches.draw(len(indices))
    draws['flip'][:] = [True, False, False, True]
    found = batches.augment(indices, **draws)
    assert found.dtype == torch.uint8
    for place, index in enumerate(indices):
        top, left, mirrored = (draws[name][place] for name in ('top', 'left', 'flip'))
        monkeypatch.setattr(
            crop, 'rand_crop_params', lambda img, o=(top, left): (*o, 8, 8)
        )
        monkeypatch.setattr(
            flip, '_choose_direction', lambda m=mirrored: 'horizontal' if m else None
        )
        item = dict(img=images[index], gt_label=index, sample_idx=index)
        for transform in (crop, flip, pack):
            item = transform(item)
        assert torch.equal(found[place], item['inputs'])


def test_draws_are_as_the_transforms_have_them():
    *_, batches = build(*PIPELINE)
    np.random.seed(0)
    draws = batches.draw(4000)
    for name in ('top', 'left'):
        counts = np.bincount(draws[name])
        assert len(counts) == 5
        assert counts.min() > 700
    assert abs(draws['flip'].mean() - 0.5) < 0.03


def test_without_augmentation_images_are_as_they_are():
    images, _, batches = build(PIPELINE[-1])
    batch = batches([4, 1])
    assert torch.equal(
        batch['inputs'], torch.from_numpy(images[[4, 1]]).permute(0, 3, 1, 2)
    )
    assert [sample.gt_label.item() for sample in batch['data_samples']] == [4, 1]
    assert [sample.sample_idx for sample in batch['data_samples']] == [4, 1]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(type='mmpretrain.Resize', scale=4), 'batches_on cannot do what Resize'),
        (
            dict(type='mmpretrain.RandomFlip', prob=0.5, direction='vertical'),
            'cannot do',
        ),
        (
            dict(type='mmpretrain.RandomCrop', crop_size=8, padding=2, pad_val=9),
            'cannot',
        ),
        (
            dict(type='mmpretrain.RandomCrop', crop_size=4, padding=2),
            r'\(8, 8\).*\(4, 4\)',
        ),
    ],
)
def test_other_transforms_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        build(changes)


@pytest.fixture
def cfg(tmp_path, data_root):
    loader = dict(batches_on='cpu', num_per_class=2)
    cfg = load_config(
        'configs/mmpretrain/wrn16-2_1xb128_cifar100.py',
        {f'train_dataloader.dataset.{key}': value for key, value in loader.items()},
    )
    cfg.train_dataloader.update(
        num_workers=0, collate_fn=dict(type='frskd_mm.keep_batch'), batch_size=32
    )
    cfg.train_cfg.max_epochs = 1
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.work_dir = str(tmp_path)
    return cfg


def test_a_training_reads_them(cfg):
    runner: Runner = build_runner(cfg)
    batch = next(iter(runner.train_dataloader))
    assert batch['inputs'].shape == (32, 3, 32, 32)
    runner.train()
    assert runner.iter == 7  # 200 images


def test_workers_are_refused(cfg):
    cfg.train_dataloader.num_workers = 1
    runner = build_runner(cfg)
    with pytest.raises(ValueError, match='num_workers=0'):
        next(iter(runner.train_dataloader))
