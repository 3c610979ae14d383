"""The BCCD configs on BCCD itself."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from det_toys import total_loss
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope

from frskd_mm.models.distilled import Distilled

REPO = Path(__file__).resolve().parents[2]
BCCD = sorted((REPO / 'configs' / 'mmdet').glob('*_bccd.py'))


def without_downloads(cfg):
    """Drop the init_cfg that reads pretrained weights."""
    if isinstance(cfg, dict):
        return {
            key: without_downloads(value)
            for key, value in cfg.items()
            if not (key == 'init_cfg' and (value or {}).get('type') == 'Pretrained')
        }
    return cfg


def build(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(without_downloads(deepcopy(cfg.model)))
    model.init_weights()
    return cfg, model.train()


def test_configs_were_found():
    assert len(BCCD) == 2


@pytest.fixture
def bccd(data_root):
    if not (data_root / 'bccd' / 'BCCD').is_dir():
        pytest.skip(f'no bccd/BCCD in {data_root}')
    cfg = Config.fromfile(BCCD[-1])
    init_default_scope(cfg.default_scope)
    root = str(data_root / 'bccd' / 'BCCD') + '/'
    return {
        split: dict(cfg[f'{split}_dataloader'].dataset, data_root=root)
        for split in ('train', 'val', 'test')
    }


def test_bccd_is_read_whole(bccd):
    boxes = np.zeros(3, dtype=int)
    for split, images in (('train', 205), ('val', 87), ('test', 72)):
        dataset = DATASETS.build(bccd[split])
        assert len(dataset) == images
        for index in range(images):
            for instance in dataset.get_data_info(index)['instances']:
                boxes[instance['bbox_label']] += 1
    assert boxes.tolist() == [4155, 372, 361]


def sample_of(dataset, name):
    """The packed sample of an image."""
    index = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))].index(
        name
    )
    return dataset[index]


def test_bccd_box_without_area_is_left_out_in_training(bccd):
    dataset = DATASETS.build(bccd['train'])
    raw = [
        dataset.get_data_info(i)
        for i in range(len(dataset))
        if dataset.get_data_info(i)['img_id'] == 'BloodImage_00343'
    ][0]['instances']
    widths = [x2 - x1 for x1, _, x2, _ in (instance['bbox'] for instance in raw)]
    heights = [y2 - y1 for _, y1, _, y2 in (instance['bbox'] for instance in raw)]
    assert min(min(widths), min(heights)) == 0
    instances = sample_of(dataset, 'BloodImage_00343')['data_samples'].gt_instances
    assert len(instances) == len(raw) - 1
    assert (instances.bboxes.widths > 0).all()
    assert (instances.bboxes.heights > 0).all()


@pytest.mark.parametrize('path', BCCD, ids=lambda path: path.stem)
def test_bccd_image_with_a_box_without_area_trains(path, bccd):
    _, model = build(path)
    if isinstance(model, Distilled):
        model.distiller.weight_schedule.begin = 0
    sample = sample_of(DATASETS.build(bccd['train']), 'BloodImage_00343')
    data = model.data_preprocessor(pseudo_collate([sample]), training=True)
    total, logs = total_loss(model, data)
    total.backward()
    assert torch.isfinite(total)
    assert ('loss_kd' in logs) == isinstance(model, Distilled)


def test_bccd_metrics_of_the_true_boxes_are_perfect(bccd):
    """Also with the box without area of the val split, which has no detection."""
    from mmdet.evaluation import CocoMetric
    from mmengine.structures import InstanceData

    dataset = DATASETS.build(
        dict(bccd['val'], indices=[*range(60, 87)], serialize_data=False)
    )
    metric = CocoMetric(metric='bbox')
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        sample = dataset[index]['data_samples']
        truth = sample.gt_instances
        boxes = truth.bboxes.tensor
        truth.bboxes = boxes
        sample.ignored_instances.bboxes = torch.zeros(0, 4)
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        sample.pred_instances = InstanceData(
            bboxes=boxes[has_area],
            labels=truth.labels[has_area],
            scores=torch.ones(int(has_area.sum())),
        )
        metric.process({}, [sample.to_dict()])
    # All of 27 images but the box without area, of some 400.
    assert metric.evaluate(len(dataset))['coco/bbox_mAP'] > 0.99
