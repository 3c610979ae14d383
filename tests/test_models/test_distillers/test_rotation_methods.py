"""SLA-SD and FRSKD+SLA."""

from typing import Any, Dict, List, Tuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparators import (
    assert_parity,
    cross_entropy,
    distilled,
    kl,
    labels_of,
    parts_reached,
    plain_prediction,
)
from torch import Tensor, nn
from toys import toy_batch, toy_frskd_cfg

from frskd_mm.models.distillers.joint_head import rotate

CLASSES = 10


def sla(**cfg: Any) -> nn.Module:
    return widen(distilled(dict(type='frskd_mm.SLA', **cfg)))


def frskd_sla(**cfg: Any) -> nn.Module:
    return widen(distilled({**toy_frskd_cfg(**cfg), 'type': 'frskd_mm.FRSKDSLA'}))


def widen(model: nn.Module) -> nn.Module:
    """Move all heads away from their tiny initial weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.3)
    return model


def turned(images: Tensor) -> Tensor:
    """Rotations by numpy, image by image; rotation-major."""
    arrays = [
        np.rot90(image.numpy(), turns, axes=(1, 2)).copy()
        for turns in range(4)
        for image in images
    ]
    return torch.from_numpy(np.stack(arrays))


def joint_reference(joint: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
    """Cross entropy and aggregate of (4N, 4C) joint logits, entry by entry."""
    size = len(labels)
    losses = []
    aggregate = [[0.0] * CLASSES for _ in range(size)]
    for r in range(4):
        for n in range(size):
            row = joint[r * size + n]
            losses.append(torch.logsumexp(row, 0) - row[int(labels[n]) * 4 + r])
            for c in range(CLASSES):
                aggregate[n][c] = aggregate[n][c] + row[c * 4 + r] / 4
    return (
        torch.stack(losses).mean(),
        torch.stack([torch.stack(row) for row in aggregate]),
    )


def test_rotations_are_those_of_numpy_and_start_with_the_batch():
    images = torch.randn(3, 3, 8, 8)
    assert torch.equal(rotate(images), turned(images))
    assert torch.equal(rotate(images)[:3], images)
    with pytest.raises(ValueError, match='square images, got 8x6'):
        rotate(torch.randn(1, 3, 8, 6))


@pytest.mark.parametrize(('temperature', 'weight'), [(1.0, 1.0), (4.0, 0.5)])
def test_sla_equals_its_equation(temperature: float, weight: float):
    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        pooled = model.backbone(turned(images))[-1].mean(dim=(2, 3))
        logits = model.head.fc(pooled[:4])
        joint = model.distiller.joint_head.classifier.head.fc(pooled)
        joint_loss, aggregate = joint_reference(joint, labels_of(samples))
        return {
            'student.loss': cross_entropy(logits, samples),
            'loss_joint': joint_loss,
            'loss_sla': weight * kl(aggregate, logits, temperature),
        }

    model = sla(soft_label=dict(temperature=temperature, loss_weight=weight))
    assert_parity(model, toy_batch(4), reference)


def attention(feats: Tensor) -> Tensor:
    energy = (feats**2).mean(dim=1).flatten(1)
    return energy / energy.norm(dim=1, keepdim=True)


@pytest.mark.parametrize('detach_inputs', [True, False])
def test_frskd_sla_equals_its_equation(detach_inputs: bool):
    """The 5N maps and 2N logits are built as the authors' code does."""

    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        distiller, labels = model.distiller, labels_of(samples)
        twin = distiller.self_teacher.twin
        feats = model.backbone(turned(images))
        sources = [f.detach() if detach_inputs else f for f in feats]
        refined = distiller.self_teacher.neck(sources)

        pooled = feats[-1].mean(dim=(2, 3))
        logits = model.head.fc(pooled[:4])
        joint = distiller.joint_head.classifier.head.fc(pooled)
        joint_loss, aggregate = joint_reference(joint, labels)

        teacher_pooled = refined[-1].mean(dim=(2, 3))
        teacher_logits = twin.head.fc(teacher_pooled[:4])
        teacher_joint = distiller.teacher_joint_head.classifier.head.fc(teacher_pooled)
        teacher_joint_loss, teacher_aggregate = joint_reference(teacher_joint, labels)

        outputs = torch.cat([logits, aggregate])
        teacher_outputs = torch.cat([teacher_logits, teacher_aggregate])
        loss_at = 0.0
        for feat, target in zip(feats, refined):
            maps = attention(torch.cat([feat[:4], feat]))
            target_maps = attention(torch.cat([target[:4], target])).detach()
            loss_at = loss_at + 100.0 * ((maps - target_maps) ** 2).mean()
        return {
            'student.loss': cross_entropy(logits, samples),
            'loss_joint': joint_loss,
            'loss_sla': 0.5 * kl(aggregate, logits, 4.0),
            'self_teacher.loss': cross_entropy(teacher_logits, samples),
            'self_teacher.loss_joint': teacher_joint_loss,
            'self_teacher.loss_sla': 0.5 * kl(teacher_aggregate, teacher_logits, 4.0),
            'loss_kd': 2.0 * kl(teacher_outputs, outputs, 4.0),
            'loss_at': loss_at,
        }

    model = frskd_sla(detach_inputs=detach_inputs, aggregate_loss=dict(loss_weight=0.5))
    assert_parity(model, toy_batch(4), reference)


def test_the_backbone_runs_once():
    model = frskd_sla()
    sizes = []
    model.backbone.register_forward_hook(lambda m, x, y: sizes.append(len(x[0])))
    model.loss(**toy_batch(3))
    assert sizes == [12]


STUDENT = {'backbone', 'head'}


@pytest.mark.parametrize('detach_inputs', [True, False])
@pytest.mark.parametrize(
    ('term', 'reaches', 'through_inputs'),
    [
        ('student.loss', STUDENT, False),
        ('loss_joint', {'backbone', 'joint_head'}, False),
        ('loss_sla', STUDENT, False),
        ('self_teacher.loss', {'self_teacher'}, True),
        ('self_teacher.loss_joint', {'self_teacher', 'teacher_joint_head'}, True),
        ('self_teacher.loss_sla', {'self_teacher'}, True),
        ('loss_kd', STUDENT | {'joint_head'}, False),
        ('loss_at', {'backbone'}, False),
    ],
)
def test_each_term_trains_only_its_parts(
    term: str, reaches: set, through_inputs: bool, detach_inputs: bool
):
    model = frskd_sla(detach_inputs=detach_inputs)
    if through_inputs and not detach_inputs:
        reaches = reaches | {'backbone'}
    assert parts_reached(model, model.loss(**toy_batch(4))[term]) == reaches


@pytest.mark.parametrize(
    ('term', 'reaches'),
    [
        ('student.loss', STUDENT),
        ('loss_joint', {'backbone', 'joint_head'}),
        ('loss_sla', STUDENT),
    ],
)
def test_each_sla_term_trains_only_its_parts(term: str, reaches: set):
    model = sla()
    assert parts_reached(model, model.loss(**toy_batch(4))[term]) == reaches


def test_mixed_labels_share_the_joint_loss():
    model = sla().eval()
    batch = toy_batch(2)
    scores = torch.zeros(2, CLASSES)
    scores[0, 0], scores[0, 3], scores[1, 7] = 0.25, 0.75, 1.0
    mixed = [s.clone().set_gt_score(p) for s, p in zip(batch['data_samples'], scores)]
    feats = model.extract_feat(turned(batch['inputs']))
    head = model.distiller.joint_head
    joint = head(feats)
    of_labels = [
        joint_reference(joint, torch.tensor(labels))[0] for labels in ([0, 7], [3, 7])
    ]
    torch.testing.assert_close(
        head.loss(joint, mixed), 0.25 * of_labels[0] + 0.75 * of_labels[1]
    )


@pytest.mark.parametrize('build', [sla, frskd_sla])
def test_a_plain_student_stays(build):
    model = build()
    model.loss(**toy_batch(2))
    ours, plain = plain_prediction(model, torch.randn(2, 3, 16, 16))
    assert torch.equal(ours, plain)


@pytest.mark.parametrize('build', [sla, frskd_sla])
def test_the_aggregate_predicts_from_four_rotations(build):
    model, batch = build().eval(), toy_batch(3)
    images = batch['inputs']
    with torch.no_grad():
        pooled = model.backbone(turned(images))[-1].mean(dim=(2, 3))
        joint = model.distiller.joint_head.classifier.head.fc(pooled)
        _, aggregate = joint_reference(joint, torch.zeros(3))
        predicted = model.distiller.joint_head.predict(
            model, images, batch['data_samples']
        )
    for i, sample in enumerate(predicted):
        assert sample is batch['data_samples'][i]
        torch.testing.assert_close(sample.pred_score, F.softmax(aggregate[i], dim=0))
