"""Configs of imported Python, as mmdetection's new ones."""

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from small_runs import forget_the_last_run

from frskd_mm.engine import configure_run, train
from frskd_mm.engine.config import load_config
from frskd_mm.engine.export import export_student
from frskd_mm.engine.wrap import wrap
from frskd_mm.utils.model import build_model

pytest.importorskip('mmdet')

CONFIG = """
from mmdet.models import (
    FPN, DetDataPreprocessor, FocalLoss, L1Loss, ResNet, RetinaHead, RetinaNet)
from mmdet.models.task_modules import (
    AnchorGenerator, DeltaXYWHBBoxCoder, MaxIoUAssigner, PseudoSampler)
from mmengine.optim import OptimWrapper
from torch.optim import SGD

default_scope = None
model = dict(
    type=RetinaNet,
    data_preprocessor=dict(type=DetDataPreprocessor),
    backbone=dict(
        type=ResNet, depth=18, base_channels=8, out_indices=(1, 2, 3),
        norm_cfg=dict(type='BN')),
    neck=dict(type=FPN, in_channels=[16, 32, 64], out_channels=32, num_outs=3),
    bbox_head=dict(
        type=RetinaHead, num_classes=3, in_channels=32, feat_channels=32,
        stacked_convs=1,
        anchor_generator=dict(
            type=AnchorGenerator, octave_base_scale=4, scales_per_octave=2,
            ratios=[0.5, 1.0], strides=[8, 16, 32]),
        bbox_coder=dict(type=DeltaXYWHBBoxCoder),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True),
        loss_bbox=dict(type=L1Loss)),
    train_cfg=dict(
        assigner=dict(
            type=MaxIoUAssigner, pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
            ignore_iof_thr=-1),
        sampler=dict(type=PseudoSampler), allowed_border=-1, pos_weight=-1),
    test_cfg=dict(
        nms_pre=100, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20, min_bbox_size=0))
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=SGD, lr=0.01))
"""


def test_wrapped_dumped_and_exported(tmp_path):
    path = tmp_path / 'retinanet.py'
    path.write_text(CONFIG)
    cfg = wrap(load_config(str(path)), 'frskd')
    dumped = tmp_path / 'dumped.py'
    cfg.dump(str(dumped))
    models = [build_model(c) for c in (cfg, Config.fromfile(str(dumped)))]
    names = [list(model.state_dict()) for model in models]
    assert names[0] == names[1]  # a training that is resumed from its dump
    checkpoint = str(tmp_path / 'epoch_1.pth')
    save_checkpoint({'state_dict': models[0].state_dict(), 'meta': {}}, checkpoint)
    out, config = export_student(cfg, checkpoint, str(tmp_path / 'student.pth'))
    plain = build_model(Config.fromfile(config))
    weights = torch.load(out, weights_only=False)['state_dict']
    assert weights._metadata['backbone']  # the versions that modules look at
    plain.load_state_dict(weights, strict=True)
    assert type(plain) is models[0].student_class
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ours, theirs = (
            m.eval().forward(image, mode='tensor') for m in (models[0], plain)
        )
    assert torch.equal(ours[0][0], theirs[0][0])


DATA = """
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
from mmdet.datasets.transforms import LoadImageFromNDArray
from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop
from frskd_mm.datasets import DigitScenesDet
from frskd_mm.hooks import EpochSeedHook

optim_wrapper['optimizer']['lr'] = 1e-5
model['bbox_head']['num_classes'] = 10
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=DigitScenesDet, split='train', num_scenes=4, scene=dict(size=64),
        pipeline=[
            dict(type=LoadImageFromNDArray), dict(type=LoadAnnotations, with_bbox=True),
            dict(type=PackDetInputs)]))
randomness = dict(seed=0)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=2)
custom_hooks = [dict(type=EpochSeedHook)]
"""


def test_trained_and_resumed(tmp_path):
    path = tmp_path / 'retinanet.py'
    path.write_text(CONFIG + DATA)

    def run(work_dir, epochs, **arguments):
        forget_the_last_run()
        cfg = wrap(load_config(str(path)), 'frskd')
        cfg.train_cfg.max_epochs = epochs
        return train(configure_run(cfg, work_dir=str(tmp_path / work_dir), **arguments))

    whole = run('whole', 2).model.state_dict()
    run('parts', 1)
    resumed = run('parts', 2, resume='auto')
    assert resumed.iter == 4
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole[name]), name
