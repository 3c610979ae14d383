"""Every method file for segmentation and detection trains a tiny student."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from test_detection import det_toys
from test_segmentation import seg_toys

from frskd_mm.engine import method_names, wrap
from frskd_mm.utils.model import build_model

#: The terms that each method adds, whatever part of it they are of.
TERMS = {
    'auxiliary': set(),
    'byot': {'loss_kd', 'loss_hint'},
    'frskd': {'loss_kd', 'loss_at'},
    'frskd-attached': {'loss_kd', 'loss_at'},
    'frskd-bifpn': {'loss_kd', 'loss_at'},
    'frskd-f': {'loss_kd'},
    'frskd-fitnet': {'loss_kd', 'loss_fitnet'},
    'frskd-overhaul': {'loss_kd', 'loss_overhaul'},
    'frskd-residual': {'loss_kd', 'loss_at'},
    'kd': {'loss_kd'},
    'label-guided': {'loss_pkd'},
    'sad': {'loss_sad'},
}
#: Those of one task alone.
OWN_TERMS = {
    'seg': {
        'frskd-strong': {'loss_kd', 'loss_at'},
        'label-assisted': {'loss_kd'},
    },
    'det': {'lgd': {'loss_lgd'}},
}
CASES = [
    (task, method, terms)
    for task, own in OWN_TERMS.items()
    for method, terms in {**TERMS, **own}.items()
]
#: SyncBN needs a GPU, and 32 groups need wider maps.
NORMS = {'seg': dict(type='BN'), 'det': dict(num_groups=4)}


def plain_and_batch(task):
    if task == 'seg':
        cfg = dict(default_scope='mmseg', model=seg_toys.student_cfg())
        return Config(cfg), seg_toys.batch()
    cfg = dict(default_scope='mmdet', model=det_toys.student_cfg('retinanet'))
    return Config(cfg), det_toys.batch()


@pytest.mark.parametrize(('task', 'method', 'terms'), CASES)
def test_it_trains(task, method, terms, tmp_path):
    torch.manual_seed(0)
    plain, batch = plain_and_batch(task)
    distiller = {}
    if method == 'kd':
        checkpoint = str(tmp_path / 'teacher.pth')
        torch.save(build_model(plain).state_dict(), checkpoint)
        distiller = dict(teacher=plain.model.to_dict(), checkpoint=checkpoint)
    elif method == 'lgd':
        distiller = dict(weight_schedule=dict(begin=0))
    elif method not in ('byot', 'sad'):  # distilled from the first iteration on
        distiller = dict(neck=dict(norm_cfg=NORMS[task]), weight_schedule=dict(begin=0))
    cfg = wrap(plain, method, distiller=distiller)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = build_model(cfg).train()
        model.init_weights()
        losses = model.loss(batch['inputs'], batch['data_samples'])
        total, log = model.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    names = set().union(*(terms for _, _, terms in CASES))
    added = {key: value for key, value in log.items() if key.split('.')[-1] in names}
    assert {key.split('.')[-1] for key in added} == terms
    zero = {key.split('.')[-1] for key, value in added.items() if value.item() == 0}
    # Its maps are the student's at first.
    assert zero == ({'loss_at'} if method == 'frskd-residual' else set())
    assert all(value.item() >= 0 for value in added.values())


@pytest.mark.parametrize('task', ['seg', 'det'])
def test_each_method_is_tested(task):
    assert method_names(task) == sorted({**TERMS, **OWN_TERMS[task]})
