"""Tiles of five bands, from files, train and are validated."""

import cv2
import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS
from seg_toys import student_cfg
from small_runs import forget_the_last_run

from frskd_mm.engine import configure_run, train, wrap

pytest.importorskip('mmseg')


@TRANSFORMS.register_module(force=True)
class LoadBands(BaseTransform):
    """As somebody with such tiles has it."""

    def transform(self, results):
        results['img'] = np.load(results['img_path'])
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results


def dataset(root, **kwargs):
    return dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='bands', seg_map_path='labels'),
        img_suffix='.npy',
        seg_map_suffix='.png',
        metainfo=dict(classes=[*'abcde'], palette=[[i] * 3 for i in range(5)]),
        pipeline=[
            dict(type='LoadBands'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
        **kwargs,
    )


@pytest.fixture
def cfg(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ('bands', 'labels'):
        (tmp_path / folder).mkdir()
    for name in range(4):
        bands = rng.normal(size=(32, 32, 5)).astype(np.float32)
        np.save(tmp_path / 'bands' / f'{name}.npy', bands)
        label = rng.integers(0, 5, (32, 32), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / 'labels' / f'{name}.png'), label)
    student = student_cfg()
    student['backbone']['in_channels'] = 5
    student['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(32, 32))
    loader = dict(batch_size=2, num_workers=0, persistent_workers=False)
    return Config(
        dict(
            default_scope='mmseg',
            model=student,
            train_dataloader=dict(
                **loader,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset(tmp_path),
            ),
            val_dataloader=dict(
                **{**loader, 'batch_size': 1},
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dataset(tmp_path, test_mode=True),
            ),
            val_evaluator=dict(type='IoUMetric', iou_metrics=['mIoU']),
            train_cfg=dict(by_epoch=True, max_epochs=1, val_interval=1),
            val_cfg=dict(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
            randomness=dict(seed=0),
        )
    )


@pytest.mark.parametrize('method', ['none', 'frskd'])
def test_five_bands_train_and_are_validated(cfg, method, tmp_path):
    forget_the_last_run()
    if method != 'none':
        norm = dict(neck=dict(norm_cfg=dict(type='BN')))
        cfg = wrap(cfg, method, distiller={**norm, 'weight_schedule': dict(begin=0)})
    runner = train(configure_run(cfg, work_dir=str(tmp_path / 'out')))
    log = runner.message_hub.log_scalars
    assert 0 <= log['val/mIoU'].current() <= 100
    if method != 'none':
        assert log['train/loss_at'].current() > 0
