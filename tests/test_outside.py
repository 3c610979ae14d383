"""The necks in plain host models, from a script outside this repository."""

import os
import subprocess
import sys

import pytest

START = """\
import sys

import torch
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
"""

END = """
torch.manual_seed(0)
assert 'frskd_mm' not in sys.modules
model = MODELS.build(ConfigDict(model))
model.init_weights()
model.train()

optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
images = torch.randn(2, 3, 64, 64)
total, _ = model.parse_losses(model(images, samples, mode='loss'))
total.backward()
optimizer.step()
assert torch.isfinite(total)
for name, parameter in model.named_parameters():
    assert parameter.grad is not None, name
for name, parameter in model.neck.named_parameters():
    assert parameter.dim() == 1 or parameter.grad.abs().sum() > 0, name

model.eval()
with torch.no_grad():
    model(images, samples, mode='predict')
    *_, feat = model.extract_feat(images)
print('coarsest', *feat.shape)
"""

RESNET = """
backbone = dict(
    type='ResNet', depth=18, base_channels=8, out_indices=(0, 1, 2, 3), norm_eval=False
)
"""

DETECTOR = """
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

init_default_scope('mmdet')
model = dict(
    type='RetinaNet',
    backbone=backbone,
    neck=NECK,
    bbox_head=dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=1,
            ratios=[1.0],
            strides=[4, 8, 16, 32],
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=50, nms=dict(type='nms', iou_threshold=0.5), score_thr=0.0,
        max_per_img=5,
    ),
)
meta = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
samples = [
    DetDataSample(
        metainfo=dict(meta, batch_input_shape=(64, 64), pad_shape=(64, 64)),
        gt_instances=InstanceData(
            bboxes=torch.tensor([[4.0, 6.0, 40.0, 44.0]]), labels=torch.tensor([1])
        ),
        ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
    )
    for _ in range(2)
]
"""

SEGMENTOR = """
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

init_default_scope('mmseg')
backbone['norm_cfg'] = norm_cfg = dict(type='BN')
model = dict(
    type='EncoderDecoder',
    backbone=backbone,
    neck=dict(type='frskd_mm.BiFPNc', in_channels=[8, 16, 32, 64]),
    decode_head=dict(
        type='FCNHead',
        in_channels=128,
        in_index=3,
        channels=8,
        num_convs=1,
        num_classes=5,
        norm_cfg=norm_cfg,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
meta = dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64))
samples = [
    SegDataSample(
        metainfo=meta,
        gt_sem_seg=PixelData(data=torch.randint(0, 5, (1, 64, 64))),
    )
    for _ in range(2)
]
"""

CLASSIFIER = """
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample

init_default_scope('mmpretrain')
backbone['stem_channels'] = backbone['base_channels']
model = dict(
    type='ImageClassifier',
    backbone=backbone,
    neck=[
        dict(type='frskd_mm.BiFPNc', in_channels=[8, 16, 32, 64]),
        dict(type='GlobalAveragePooling'),
    ],
    head=dict(
        type='LinearClsHead',
        num_classes=5,
        in_channels=128,
        loss=dict(type='CrossEntropyLoss'),
    ),
)
samples = [DataSample().set_gt_label(i) for i in range(2)]
"""

FPN = "dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4)"
AFTER_FPN = "dict(type='frskd_mm.BiFPNc', in_channels=[16] * 4, width=1)"
INSTEAD = "dict(type='frskd_mm.BiFPN', in_channels=[8, 16, 32, 64], out_channels=16)"

SCRIPTS = {
    'mmdet-after-fpn': (
        DETECTOR.replace('NECK', f'[{FPN}, {AFTER_FPN}]'),
        'coarsest 2 16 2 2',
    ),
    'mmdet-instead-of-fpn': (DETECTOR.replace('NECK', INSTEAD), 'coarsest 2 16 2 2'),
    'mmseg': (SEGMENTOR, 'coarsest 2 128 2 2'),
    'mmpretrain': (CLASSIFIER, 'coarsest 2 128'),
}


NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name.endswith('of-fpn') else ())
    for name in SCRIPTS
]


@pytest.mark.parametrize('name', NAMES)
def test_necks_work_in_plain_models(name, tmp_path, repo):
    host, shape = SCRIPTS[name]
    script = tmp_path / 'train.py'
    script.write_text(START + RESNET + host + END)
    result = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(repo), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == shape
