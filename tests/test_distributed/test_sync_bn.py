"""``sync_bn='torch'`` reaches every batch norm of a distilled model.

PyTorch's SyncBatchNorm trains on accelerators only, once there is more than one
process. In a single process it is an ordinary BN, which is how its place in the model
is tested here.
"""

from pathlib import Path

import pytest
import torch
from comparators import distilled
from mmengine.model import convert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from test_detection import det_toys
from test_segmentation import seg_toys
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from toys import toy_batch, toy_frskd_cfg, toy_student_cfg

from frskd_mm.engine import configure_run, load_config
from frskd_mm.engine.runs import build_runner
from frskd_mm.models.necks import BiFPN
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[2]
DIGITS = str(REPO / 'configs/digits/frskd_wrn10-1_digits.py')
BN = dict(type='BN')
KD = dict(type='frskd_mm.SoftLabelLoss', temperature=4.0)


def frskd(**changes):
    return distilled({**toy_frskd_cfg(), **changes})


def wide_resnet():
    init_default_scope('mmpretrain')
    return build_model(load_config(DIGITS)).train()


def pretrained_teacher(folder):
    teacher = toy_student_cfg(norm_cfg=BN)
    path = str(folder / 'teacher.pth')
    torch.save(dict(state_dict=MODELS.build(teacher).state_dict()), path)
    return distilled(
        dict(
            type='frskd_mm.PretrainedTeacher',
            teacher=teacher,
            checkpoint=path,
            soft_label=KD,
            feature_loss=dict(type='frskd_mm.OverhaulLoss', margin='batch'),
        )
    )


def published_segmentor():
    """The necks of the authors' segmentation model."""
    student = seg_toys.student_cfg(
        neck=dict(
            type='frskd_mm.FPNBiFPNSeg', in_channels=[8, 16, 32, 64], out_channels=8
        ),
        decode_head=seg_toys.head_cfg(in_channels=8, in_index=0),
        auxiliary_head=None,
    )
    return seg_toys.build(student, neck=dict(type='frskd_mm.BiFPNSeg'), source='neck')


def detector(family):
    model = det_toys.distilled(family, neck=dict(type='frskd_mm.BiFPN', norm_cfg=BN))
    return model.train()


CLASSIFIERS = {
    'frskd': frskd,
    'frskd-recompute': lambda: frskd(neck=dict(type='frskd_mm.BiFPNc', with_cp=True)),
    'frskd-fitnet': lambda: frskd(feature_loss=dict(type='frskd_mm.FitNetLoss')),
    'frskd-overhaul': lambda: frskd(feature_loss=dict(type='frskd_mm.OverhaulLoss')),
    'frskd-sla': lambda: frskd(
        type='frskd_mm.FRSKDSLA',
        aggregate_loss=KD,
    ),
    'byot': lambda: distilled(dict(type='frskd_mm.BYOT', soft_label=KD)),
    'one': lambda: distilled(dict(type='frskd_mm.ONE', num_branches=2, soft_label=KD)),
    'wide-resnet': wide_resnet,
}
DENSE = {
    'fcn': lambda: seg_toys.build(seg_toys.student_cfg()),
    'published-segmentor': published_segmentor,
    'retinanet': lambda: detector('retinanet'),
    'rtmdet': lambda: detector('rtmdet'),  # shares layers between levels
}


def build(name, folder):
    torch.manual_seed(0)
    if name == 'pretrained-teacher':
        return pretrained_teacher(folder)
    return {**CLASSIFIERS, **DENSE}[name]()


def batch_of(name):
    torch.manual_seed(1)
    if name in DENSE:
        is_detector = name in ('retinanet', 'rtmdet')
        return (det_toys if is_detector else seg_toys).batch()
    return toy_batch()


def modules_outside_the_tree(model):
    """Modules that an attribute refers to, but that conversion cannot replace."""
    own = set(model.modules())

    def find(value):
        if isinstance(value, nn.Module):
            return [] if value in own else [value]
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, (list, tuple, set)):
            return [module for part in value for module in find(part)]
        return []

    return [
        (type(module).__name__, name)
        for module in own
        for name, value in vars(module).items()
        if name != '_modules' and find(value)
    ]


@pytest.mark.parametrize('name', [*CLASSIFIERS, 'pretrained-teacher', *DENSE])
def test_all_norms_are_converted_and_losses_stay(name, tmp_path):
    plain = build(name, tmp_path)
    assert sum(isinstance(m, _BatchNorm) for m in plain.distiller.modules())
    keys = list(plain.state_dict())
    converted = convert_sync_batchnorm(build(name, tmp_path), 'torch')
    left = [
        path
        for path, module in converted.named_modules()
        if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
    ]
    assert not left
    assert not modules_outside_the_tree(converted)
    assert list(converted.state_dict()) == keys
    for module in converted.modules():
        if isinstance(module, BiFPN) and module.output_norms is not None:
            assert set(module.output_norms) <= set(converted.modules())

    losses = []
    for model in (plain, converted):
        model.train()  # as the loop does: some norms stay in evaluation mode
        _, logged = model.parse_losses(model.loss(**batch_of(name)))
        losses.append({key: value.item() for key, value in logged.items()})
    assert losses[0] == losses[1]
    for key, value in plain.state_dict().items():  # running statistics
        torch.testing.assert_close(converted.state_dict()[key], value, rtol=0, atol=0)


def test_config_line_reaches_the_runner(tmp_path, monkeypatch):
    for name, value in dict(RANK=0, WORLD_SIZE=1, LOCAL_RANK=0).items():
        monkeypatch.setenv(name, str(value))
    distributed.init_process_group(
        'gloo', store=distributed.HashStore(), rank=0, world_size=1
    )

    def build_wrapped(**options):
        cfg = load_config(DIGITS, {**options, 'experiment_name': str(options)})
        return build_runner(
            configure_run(cfg, work_dir=str(tmp_path), launcher='pytorch')
        ).model

    try:
        norms = [m for m in build_wrapped().modules() if isinstance(m, _BatchNorm)]
        assert norms
        assert not any(isinstance(norm, nn.SyncBatchNorm) for norm in norms)
        with pytest.raises(ValueError, match='SyncBatchNorm layers only work with GPU'):
            build_wrapped(sync_bn='torch')
    finally:
        distributed.destroy_process_group()
