"""Segmentors whose backbones return one map, or maps of one size, as mmseg has them."""

import pytest
import torch
from mmengine.registry import DefaultScope

pytest.importorskip('mmseg')

from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.trial import random_batch, without_weights
from frskd_mm.utils.model import build_model

SIZE = 64
BEIT = {
    'backbone.img_size': (SIZE, SIZE),
    'backbone.embed_dims': 48,
    'neck.embed_dim': 48,
    'decode_head.in_channels': [48] * 4,
    'decode_head.channels': 16,
    'auxiliary_head.in_channels': 48,
    'auxiliary_head.channels': 16,
}
#: Name -> config, what makes it small, and names of the levels.
SEGMENTORS = {
    'BEiT, UPerNet': (
        'beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py',
        BEIT,
        ['its output'] * 4,
    ),
    'ERFNet': (
        'erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py',
        {},
        None,
    ),
    'DDRNet': (
        'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
        {},
        None,
    ),
    'PIDNet': (
        'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
        {},
        None,
    ),
}


def without_sync(part):
    """Let the norms run on a CPU, in place."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if value == 'SyncBN':
            part[key] = 'BN'
        elif isinstance(value, (dict, list)):
            without_sync(value)


def small_config(name):
    path, changes, _ = SEGMENTORS[name]
    cfg = load_config(f'mmseg::{path}')
    without_weights(cfg.model)
    without_sync(cfg.model)
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    cfg.model.data_preprocessor.size = (SIZE, SIZE)
    return cfg


@pytest.mark.parametrize('name', SEGMENTORS)
def test_a_segmentor_trains_as_it_is(name):
    cfg = small_config(name)
    wrapped = wrap(cfg)
    assert wrapped.model.student == cfg.model
    wrapped.model.distiller.pop('weight_schedule', None)
    model = build_model(wrapped)
    model.init_weights()
    levels = model.distiller.levels
    assert len(levels.stages) >= 2
    names = SEGMENTORS[name][2]
    assert names is None or [stage.name for stage in levels.stages] == names
    batch = random_batch(cfg, 2, (SIZE, SIZE), num_classes=2)
    with DefaultScope.overwrite_default_scope('mmseg'):
        batch = model.train().data_preprocessor(batch, training=True)
    losses = model(**batch, mode='loss')
    total, log = model.parse_losses(losses)
    terms = {key: float(value) for key, value in log.items() if 'loss' in key}
    assert {'loss_kd', 'loss_at'} <= terms.keys()
    assert all(0 < value < float('inf') for value in terms.values()), terms
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(
        losses['loss_at'], list(parameters.values()), allow_unused=True
    )
    reached = {k.split('.')[0] for k, g in zip(parameters, grads) if g is not None}
    assert reached == {'backbone'}
    own = {k for k in model.state_dict() if not k.startswith('distiller.')}
    assert own == build_model(cfg).state_dict().keys()


@pytest.mark.parametrize('self_teacher', [False, True], ids=['student', 'self_teacher'])
@pytest.mark.parametrize('name', ['PIDNet', 'DDRNet'])
def test_a_teacher_gives_what_its_loss_takes(name, self_teacher, tmp_path):
    """These return fewer maps in eval mode."""
    cfg = small_config(name)
    teacher_cfg = wrap(cfg) if self_teacher else cfg
    teacher = build_model(teacher_cfg)
    teacher.init_weights()
    path = str(tmp_path / 'teacher.pth')
    torch.save(dict(state_dict=teacher.state_dict()), path)
    settings = dict(
        teacher=teacher_cfg.model.to_dict(), checkpoint=path, self_teacher=self_teacher
    )
    model = build_model(wrap(cfg, 'kd', settings)).train()
    model.init_weights()
    batch = random_batch(cfg, 2, (SIZE, SIZE), num_classes=2)
    with DefaultScope.overwrite_default_scope('mmseg'):
        batch = model.data_preprocessor(batch, training=True)
    losses = model(**batch, mode='loss')
    assert losses['loss_kd'].isfinite()
    assert losses['loss_kd'] > 0
