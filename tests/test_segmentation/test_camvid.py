"""CamVid: the real data, and copies that are wrong."""

import shutil

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner

from frskd_mm.datasets import CamVid

CONFIG = 'configs/mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180.py'


@pytest.fixture
def camvid(data_root):
    """Folder of the real data."""
    if not (data_root / 'camvid').is_dir():
        pytest.skip(f'no CamVid at {data_root / "camvid"}')
    return data_root / 'camvid'


@pytest.fixture
def copy(camvid, tmp_path):
    """Two images of each split, to be damaged."""
    for split in ('train', 'val', 'test'):
        for kind in ('images', 'labels'):
            folder = tmp_path / 'camvid' / kind / split
            folder.mkdir(parents=True)
            for file in sorted((camvid / kind / split).iterdir())[:2]:
                shutil.copy(file, folder)
    return tmp_path / 'camvid'


@pytest.mark.parametrize(
    ('split', 'number'), [('train', 367), ('val', 101), ('test', 233)]
)
def test_splits_are_complete(camvid, split, number):
    dataset = CamVid(data_root=str(camvid), split=split)
    assert len(dataset) == number
    assert len(dataset.metainfo['classes']) == len(dataset.metainfo['palette']) == 11


def test_pipelines_ignore_void(camvid, repo):
    cfg = Config.fromfile(repo / CONFIG)
    init_default_scope('mmseg')
    seen = set()
    for loader, shape in (
        (cfg.train_dataloader, None),
        (cfg.test_dataloader, (360, 480)),
    ):
        cfg_dataset = {**loader.dataset, 'data_root': str(camvid), 'indices': 4}
        for item in DATASETS.build(cfg_dataset):
            labels = item['data_samples'].gt_sem_seg.data
            seen |= set(labels.unique().tolist())
            assert item['inputs'].dtype == torch.uint8
            if shape:
                assert labels.shape[1:] == shape
                assert item['inputs'].shape == (3, 180, 240)
    assert 255 in seen
    assert seen <= {*range(11), 255}


def test_a_part_of_the_classes(camvid):
    dataset = CamVid(data_root=str(camvid), metainfo=dict(classes=('road', 'car')))
    assert dataset.label_map[3] == 0
    assert dataset.label_map[8] == 1
    assert {dataset.label_map[i] for i in (0, 1, 2, 4, 5, 6, 7, 9, 10, 11)} == {255}
    assert dataset.metainfo['palette'] == [[128, 64, 128], [64, 0, 128]]


def test_missing_folders_are_named_with_the_fix(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'images.train.*FRSKD_DATA'):
        CamVid(data_root=str(tmp_path))
    (tmp_path / 'images/val').mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r'no \.jpg images'):
        CamVid(data_root=str(tmp_path), split='val')
    with pytest.raises(ValueError, match="split of CamVid must be one of .*'dev'"):
        CamVid(data_root=str(tmp_path), split='dev')


def test_missing_label_maps_are_named(copy):
    lost = sorted((copy / 'labels/val').iterdir())[1]
    lost.unlink()
    with pytest.raises(ValueError, match=f'1 of 2 val images.*{lost.name}'):
        CamVid(data_root=str(copy), split='val')


def test_foreign_labels_are_named(copy, repo):
    """A copy with other label ids stops at the first batch that has one."""
    import mmcv
    import numpy as np
    from mmengine.registry import MODELS

    for file in (copy / 'labels/train').iterdir():
        mmcv.imwrite(np.full((360, 480), 20, dtype=np.uint8), str(file))
    cfg = Config.fromfile(repo / CONFIG)
    init_default_scope('mmseg')
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'data_root': str(copy)})
    model = MODELS.build(cfg.model)
    data = model.data_preprocessor(pseudo_collate([dataset[0], dataset[1]]), True)
    with pytest.raises(ValueError, match=r'Labels \[20\] in .*png.*num_classes=11'):
        model(**data, mode='loss')


def test_config_trains_and_validates_in_a_runner(copy, repo, tmp_path):
    cfg = Config.fromfile(repo / CONFIG)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.num_workers = 0
        loader.batch_size = 2
        loader.dataset.data_root = str(copy)
    cfg.val_dataloader.batch_size = 1
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.work_dir = str(tmp_path / 'run')
    runner = Runner.from_cfg(cfg)
    before = {
        name: parameter.clone() for name, parameter in runner.model.named_parameters()
    }
    runner.train()
    moved = {
        name.startswith('distiller.')
        for name, parameter in runner.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert moved == {True, False}  # student and self-teacher
    metrics = runner.test()
    assert 0 <= metrics['mIoU'] <= 100
    assert (tmp_path / 'run/epoch_2.pth').is_file()
