"""MaskFormer and Mask2Former of mmseg: classes and masks of matched queries."""

import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.nn import functional as F

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from seg_toys import backbone_cfg

from frskd_mm.models.losses import SoftLabelLoss

sys.path.insert(0, str(Path(__file__).parents[1] / 'test_detection'))
from det_toys import NUM_CLASSES, mask_head, mask_training

sys.path.pop(0)

KINDS = ('MaskFormerHead', 'Mask2FormerHead')


def student_cfg(kind):
    """A tiny segmentor that classifies masks."""
    head = mask_head(kind)
    head['num_classes'] = NUM_CLASSES
    head['train_cfg'] = mask_training(kind)
    for part, name in (
        (head['train_cfg']['assigner'], 'HungarianAssigner'),
        (head['train_cfg']['sampler'], 'MaskPseudoSampler'),
        (head['loss_cls'], 'CrossEntropyLoss'),
        (head['loss_mask'], head['loss_mask']['type']),
        (head['loss_dice'], 'DiceLoss'),
        (head['pixel_decoder'], head['pixel_decoder']['type']),
    ):
        part['type'] = f'mmdet.{name}'
    for cost in head['train_cfg']['assigner']['match_costs']:
        cost['type'] = f'mmdet.{cost["type"]}'
    backbone = backbone_cfg()
    backbone.update(strides=(1, 2, 2, 2), dilations=(1, 1, 1, 1))
    backbone['out_indices'] = (0, 1, 2, 3)
    cfg = dict(
        type='mmseg.EncoderDecoder',
        backbone=backbone,
        decode_head=head,
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    return Config(cfg)._cfg_dict


def distilled(kind, alpha=1.0):
    model = MODELS.build(
        dict(
            type='frskd_mm.Distilled',
            student=student_cfg(kind),
            distiller=dict(
                type='frskd_mm.FRSKD',
                neck=dict(type='frskd_mm.BiFPNc', width=1),
                soft_label=dict(type='frskd_mm.SoftLabelLoss', loss_weight=alpha),
                feature_loss=dict(type='frskd_mm.AttentionTransferLoss'),
            ),
        )
    )
    model.init_weights()
    return model.train()


def batch():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        labels = torch.zeros(1, 64, 64, dtype=torch.long)
        labels[:, 8:30, 8:30] = 1
        labels[:, 40:, 20:60] = 2
        shape = (64, 64)
        sample = SegDataSample(
            metainfo=dict(img_shape=shape, ori_shape=shape, pad_shape=shape)
        )
        sample.gt_sem_seg = PixelData(data=labels)
        samples.append(sample)
    return dict(inputs=torch.randn(2, 3, 64, 64), data_samples=samples)


@pytest.mark.parametrize('kind', KINDS)
def test_classes_and_masks_of_matched_queries_are_compared(kind):
    torch.manual_seed(0)
    model, data = distilled(kind), batch()
    distiller = model.distiller
    student = distiller.run_student(model, **data, source=distiller.source)
    teacher = distiller.run_self_teacher(model, student, data['data_samples'])
    labels = distiller.task.soft_labels(student, teacher, data['data_samples'])
    value = SoftLabelLoss(temperature=1.0)(labels)
    kl_cls, kl_mask = [], []
    layers = len(student.output('queries')[0])
    for call in range(2 * layers):
        layer, image = call // 2, call % 2
        for region in range(1, 4):
            found = []
            for one in (student, teacher):
                inds = one.outputs['matches'][call].gt_inds.tolist()
                query = inds.index(region)
                cls, masks = one.output('queries')
                found.append((cls[layer][image][query], masks[layer][image][query]))
            (cls_s, mask_s), (cls_t, mask_t) = found
            kl_cls.append(
                F.kl_div(cls_s.log_softmax(0), cls_t.softmax(0), reduction='sum')
            )
            p, q = mask_t.sigmoid(), mask_s.sigmoid()
            kl_mask.append(p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log())
    expected = torch.stack(kl_cls).mean() + torch.cat(kl_mask).mean()
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)
    value.backward()
    parts = {
        name.partition('.')[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert parts == {'backbone', 'decode_head'}


@pytest.mark.parametrize('kind', KINDS)
def test_training_steps_and_an_export_that_predicts_the_same(kind):
    torch.manual_seed(0)
    model, data = distilled(kind), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    for _ in range(2):
        optimizer.zero_grad()
        total, logs = model.parse_losses(model.loss(**data))
        total.backward()
        optimizer.step()
        assert torch.isfinite(total)
    assert logs['loss_kd'] > 0
    plain = MODELS.build(student_cfg(kind))
    weights = {k: v for k, v in model.state_dict().items() if 'distiller.' not in k}
    plain.load_state_dict(weights, strict=True)
    metas = [sample.metainfo for sample in data['data_samples']]
    with torch.no_grad():
        ours, theirs = (
            one.eval().encode_decode(data['inputs'], metas) for one in (model, plain)
        )
    assert torch.equal(ours, theirs)
