"""SLA-SD and FRSKD+SLA."""

from typing import Tuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comparators import cross_entropy, kl, labels_of
from contracts import Case, DistillerContract
from torch import Tensor
from toys import toy_batch, toy_frskd_cfg

from frskd_mm.models.distillers import FRSKDSLA, SLA
from frskd_mm.models.distillers.joint_head import rotate

CLASSES = 10


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


def attention(feats: Tensor) -> Tensor:
    energy = (feats**2).mean(dim=1).flatten(1)
    return energy / energy.norm(dim=1, keepdim=True)


STUDENT = {'backbone', 'head'}


class RotationContract(DistillerContract):
    image_sizes = (dict(height=25, width=25),)  # square ones rotate
    test_wrong_settings_are_refused = None


class TestSLA(RotationContract):
    component = SLA
    cases = {
        'default': Case(dict(), None),
        'other': Case(dict(soft_label=dict(temperature=4.0, loss_weight=0.5)), None),
    }
    main = ['default']
    graphs = 2

    def expected(self, model, images, data_samples):
        soft_label = model.distiller.soft_label
        pooled = model.backbone(turned(images))[-1].mean(dim=(2, 3))
        logits = model.head.fc(pooled[:4])
        joint = model.distiller.joint_head.classifier.head.fc(pooled)
        joint_loss, aggregate = joint_reference(joint, labels_of(data_samples))
        divergence = kl(aggregate, logits, soft_label.temperature)
        return {
            'student.loss': cross_entropy(logits, data_samples),
            'loss_joint': joint_loss,
            'loss_sla': soft_label.loss_weight * divergence,
        }

    def reaches(self, case):
        return {
            'student.loss': STUDENT,
            'loss_joint': {'backbone', 'joint_head'},
            'loss_sla': STUDENT,
        }


class TestFRSKDSLA(RotationContract):
    """The 5N maps and 2N logits are built as the authors' code does."""

    component = FRSKDSLA
    cases = {
        name: Case(
            toy_frskd_cfg(
                detach_inputs=name == 'detached', aggregate_loss=dict(loss_weight=0.5)
            ),
            None,
        )
        for name in ('detached', 'attached')
    }
    main = ['detached', 'attached']
    graphs = 2

    def expected(self, model, images, data_samples):
        distiller, labels = model.distiller, labels_of(data_samples)
        twin, detach = distiller.self_teacher.twin, distiller.detach_inputs
        feats = model.backbone(turned(images))
        sources = [f.detach() if detach else f for f in feats]
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
            'student.loss': cross_entropy(logits, data_samples),
            'loss_joint': joint_loss,
            'loss_sla': 0.5 * kl(aggregate, logits, 4.0),
            'self_teacher.loss': cross_entropy(teacher_logits, data_samples),
            'self_teacher.loss_joint': teacher_joint_loss,
            'self_teacher.loss_sla': 0.5 * kl(teacher_aggregate, teacher_logits, 4.0),
            'loss_kd': 2.0 * kl(teacher_outputs, outputs, 4.0),
            'loss_at': loss_at,
        }

    def reaches(self, case):
        inputs = set() if case.settings['detach_inputs'] else {'backbone'}
        teacher = {'self_teacher'} | inputs
        return {
            'student.loss': STUDENT,
            'loss_joint': {'backbone', 'joint_head'},
            'loss_sla': STUDENT,
            'self_teacher.loss': teacher,
            'self_teacher.loss_joint': teacher | {'teacher_joint_head'},
            'self_teacher.loss_sla': teacher,
            'loss_kd': STUDENT | {'joint_head'},
            'loss_at': {'backbone'},
        }


def sla():
    return TestSLA().build(TestSLA.cases['default'])


def frskd_sla():
    return TestFRSKDSLA().build(TestFRSKDSLA.cases['detached'])


def test_the_backbone_runs_once():
    model = frskd_sla()
    sizes = []
    model.backbone.register_forward_hook(lambda m, x, y: sizes.append(len(x[0])))
    model.loss(**toy_batch(3))
    assert sizes == [12]


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
