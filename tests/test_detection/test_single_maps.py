"""Detectors whose backbone returns one map, of mmdetection's configs as they are."""

import pytest
from mmengine.registry import DefaultScope

pytest.importorskip('mmdet')

from contracts import owners_trained

from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.trial import random_batch, without_weights
from frskd_mm.utils.model import build_model

#: Name -> config, and which parts the soft labels train beside backbone and neck.
DETECTORS = {
    'DETR': (
        'detr/detr_r50_8xb2-150e_coco.py',
        {'encoder', 'decoder', 'query_embedding', 'bbox_head'},
    ),
    'Conditional DETR': (
        'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
        {'encoder', 'decoder', 'query_embedding', 'bbox_head'},
    ),
    'DAB-DETR': (
        'dab_detr/dab-detr_r50_8xb2-50e_coco.py',
        {'encoder', 'decoder', 'query_embedding', 'bbox_head'},
    ),
    'YOLOF': ('yolof/yolof_r50-c5_8xb8-1x_coco.py', {'bbox_head'}),
    'Faster R-CNN DC5': (
        'faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py',
        {'rpn_head', 'roi_head'},
    ),
}
#: Widths of the backbone's coarsest map and of layers as wide, by these names.
WIDE = ('in_channels', 'out_channels', 'feat_channels', 'feedforward_channels')
TOP = 128
FEW = {'num_layers': 1, 'num_queries': 20, 'num_classes': 3, 'nms_pre': 100}


def shrink(part):
    """Make a model's parts small, in place; none is left out."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key in WIDE and value in (2048, [2048]):
            part[key] = [TOP] if isinstance(value, list) else TOP
        elif key in FEW:
            part[key] = FEW[key]
        elif isinstance(value, (dict, list)):
            shrink(value)


def small_config(name):
    cfg = load_config(f'mmdet::{DETECTORS[name][0]}')
    without_weights(cfg.model)
    shrink(cfg.model)
    cfg.model.backbone.update(
        depth=18,
        base_channels=16,
        stem_channels=16,
        style='pytorch',
        frozen_stages=-1,
        norm_eval=False,
        norm_cfg=dict(type='BN'),
    )
    return cfg


@pytest.mark.parametrize('name', DETECTORS)
def test_a_detector_of_one_map_trains_as_it_is(name):
    cfg = small_config(name)
    wrapped = wrap(cfg, distiller=dict(weight_schedule=dict(begin=0)))
    assert wrapped.model.student == cfg.model
    model = build_model(wrapped)
    model.init_weights()
    stages = [stage.name for stage in model.distiller.levels.stages]
    # The dilated layer4 is as large as layer3.
    inner = ['relu', 'layer1', 'layer2', 'layer3']
    assert stages == [*(inner[:3] if 'DC5' in name else inner[1:]), 'its output']
    batch = random_batch(cfg, 2, (128, 128), num_classes=3)
    with DefaultScope.overwrite_default_scope('mmdet'):
        batch = model.train().data_preprocessor(batch, training=True)
    losses = model(**batch, mode='loss')
    _, log = model.parse_losses(losses)
    terms = {key: float(value) for key, value in log.items() if 'loss' in key}
    assert {'loss_kd', 'loss_at', 'student.task_loss'} <= terms.keys()
    assert all(0 < value < float('inf') for value in terms.values()), terms
    neck = {'neck'} & dict(model.named_children()).keys()
    assert owners_trained(model, losses['loss_at']) == {'backbone'}
    assert owners_trained(model, losses['loss_kd']) == {
        'backbone',
        *neck,
        *DETECTORS[name][1],
    }
    own = {k for k in model.state_dict() if not k.startswith('distiller.')}
    assert own == build_model(cfg).state_dict().keys()
