"""The embedded digits: content, splits and the real classification pipeline."""

import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from sklearn.datasets import load_digits

from frskd_mm.datasets import Digits
from frskd_mm.datasets.bundled_digits import read_digits
from frskd_mm.registry import DATASETS


def test_splits_are_disjoint_and_complete():
    train, test = read_digits('train')[0], read_digits('test')[0]
    assert len(train) == 1000
    assert len(test) == 797
    together = sorted(image.tobytes() for image in np.concatenate([train, test]))
    original = np.rint(load_digits().images * (255 / 16)).astype(np.uint8)
    assert together == sorted(image.tobytes() for image in original)
    assert not {i.tobytes() for i in train} & {i.tobytes() for i in test}


def test_subtrain_and_val_part_the_training_images_of_each_class():
    train = read_digits('train')
    parts = [read_digits(split) for split in ('subtrain', 'val')]
    counts = [np.bincount(labels).tolist() for _, labels in parts]
    assert counts == [[70] * 10, [30] * 10]
    for label in range(10):
        together = [images[labels == label] for images, labels in parts]
        np.testing.assert_array_equal(
            np.concatenate(together), train[0][train[1] == label]
        )


def test_labels_belong_to_the_images():
    originals = {
        np.rint(image * (255 / 16)).astype(np.uint8).tobytes(): target
        for image, target in zip(load_digits().images, load_digits().target)
    }
    for image, label in zip(*read_digits('test')):
        assert originals[image.tobytes()] == label


def test_num_per_class_keeps_the_first_of_each_class():
    images, labels = read_digits('train', num_per_class=3)
    assert np.bincount(labels).tolist() == [3] * 10
    everything = read_digits('train')
    for label in range(10):
        np.testing.assert_array_equal(
            images[labels == label], everything[0][everything[1] == label][:3]
        )


def test_dataset_gives_what_mmpretrain_expects():
    dataset = Digits(split='train', num_per_class=2, size=24)
    assert len(dataset) == 20
    assert dataset.CLASSES == tuple('0123456789')
    info = dataset.get_data_info(3)
    assert info['img'].shape == (24, 24, 3)
    assert info['img'].dtype == np.uint8
    assert info['img'].max() > 200
    assert np.bincount(dataset.get_gt_labels()).tolist() == [2] * 10
    source = read_digits('train', 2)[0][3]
    np.testing.assert_array_equal(Digits(size=8)[3]['img'][..., 1], source)


def test_pipeline_packs_images_and_labels():
    dataset = DATASETS.build(
        dict(
            type='frskd_mm.Digits',
            split='test',
            pipeline=[
                dict(type='mmpretrain.RandomCrop', crop_size=32, padding=4),
                dict(type='mmpretrain.PackInputs'),
            ],
        )
    )
    packed = dataset[0]
    assert packed['inputs'].shape == (3, 32, 32)
    assert packed['data_samples'].gt_label.item() == read_digits('test')[1][0]


def test_wrong_arguments_are_explained():
    with pytest.raises(ValueError, match=r"one of \('train', .*'val'\), got 'dev'"):
        Digits(split='dev')
    with pytest.raises(ValueError, match=r'\[1, 100\] for the train split, got 101'):
        Digits(num_per_class=101)


def test_missing_scikit_learn_names_the_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn.datasets', None)
    with pytest.raises(ImportError, match='pip install scikit-learn'):
        read_digits('train')


@pytest.mark.parametrize('name', ['wrn10-1_digits', 'frskd_wrn10-1_digits'])
def test_training_lowers_the_loss(name, repo, tmp_path):
    cfg = Config.fromfile(repo / 'configs' / 'digits' / f'{name}.py')
    cfg.merge_from_dict(
        {
            'work_dir': str(tmp_path),
            'log_level': 'WARNING',
            'train_dataloader.dataset.num_per_class': 2,
            'train_cfg.max_epochs': 1,
            'val_cfg': None,
            'val_dataloader': None,
            'val_evaluator': None,
        }
    )
    runner = Runner.from_cfg(cfg)
    batch = next(iter(runner.train_dataloader))
    model = runner.model
    optim_wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    model.train()
    losses = []
    for _ in range(10):
        data = model.data_preprocessor(batch, training=True)
        loss, _ = model.parse_losses(model(**data, mode='loss'))
        optim_wrapper.update_params(loss)
        losses.append(loss.item())
    assert torch.isfinite(torch.tensor(losses)).all()
    assert losses[-1] < 0.7 * losses[0]
