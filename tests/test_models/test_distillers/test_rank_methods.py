"""Zipf's LS and USKD: the methods that rank the classes beside the label."""

import pytest
import torch
import torch.nn.functional as F
from comparators import (
    cross_entropy,
    distilled,
    labels_of,
)
from contracts import Case, DistillerContract
from toys import terms_of, toy_batch, toy_student_cfg

from frskd_mm.models.distillers import USKD, ZipfLS

CLASSES = 10


def zipf_reference(upsample):
    """Every pixel's class by a loop over pixels."""

    def reference(copy, images, samples):
        feat, fc = copy.backbone(images)[-1], copy.head.fc
        logits = fc(feat.mean(dim=(2, 3)))
        if upsample:
            feat = F.interpolate(
                feat, scale_factor=2.0, mode='bilinear', align_corners=False
            )
        total = 0.0
        for n, label in enumerate(labels_of(samples).tolist()):
            counts = [0] * CLASSES
            for row in range(feat.shape[2]):
                for column in range(feat.shape[3]):
                    scores = fc.weight @ feat[n, :, row, column] + fc.bias
                    counts[int(scores.argmax())] += 1
            others = [c for c in range(CLASSES) if c != label]
            share = {c: 1 / (1 + sum(k > counts[c] for k in counts)) for c in others}
            norm = sum(share.values())
            log_norm = torch.logsumexp(logits[n, others], dim=0)
            for c in others:
                target = torch.tensor(share[c] / norm, dtype=logits.dtype)
                total = total + target * (target.log() - logits[n, c] + log_norm)
        return {
            'student.loss': cross_entropy(logits, samples),
            'loss_zipf': 0.1 * total / len(samples),
        }

    return reference


def uskd_reference(copy, images, samples):
    feats, labels = copy.backbone(images), labels_of(samples)
    logits = copy.head.fc(feats[-1].mean(dim=(2, 3)))
    weak = copy.distiller.weak_classifier(feats[-2].mean(dim=(2, 3)))
    probs, weak_probs = logits.softmax(1), weak.softmax(1)
    mean_square = (probs.detach()[range(len(labels)), labels] ** 2).mean()
    target = non_target = 0.0
    for n, label in enumerate(labels.tolist()):
        factor = probs[n, label].detach() ** 2 + 1 - mean_square
        target = target - factor * probs[n, label].log()
        value = weak_probs[n] / (1 - weak_probs[n, label] + 1e-6)
        value = value + probs[n].log() / (1 - probs[n, label].log() + 1e-6)
        ordered = value.argsort(descending=True).tolist()
        others = [c for c in range(CLASSES) if c != label]
        law = {c: 1 / (1 + ordered.index(c)) for c in others}
        log_probs = logits[n] - torch.logsumexp(logits[n, others], dim=0)
        non_target = non_target - sum(
            law[c] / sum(law.values()) * log_probs[c] for c in others
        )
    smoothed = 0.9 * F.one_hot(labels, CLASSES).to(logits) + 0.1 / CLASSES
    return {
        'student.loss': cross_entropy(logits, samples),
        'loss_uskd_target': 0.1 * target / len(labels),
        'loss_uskd_non_target': 0.1 * non_target / len(labels),
        'loss_uskd_weak': -0.1 * (smoothed * weak_probs.log()).sum(1).mean(),
    }


def zipf_ls(**cfg):
    return distilled(dict(type='frskd_mm.ZipfLS', **cfg))


def uskd(**cfg):
    return distilled(dict(type='frskd_mm.USKD', **cfg))


class TestZipfLS(DistillerContract):
    component = ZipfLS
    cases = {
        'upsampled': Case(dict(upsample=True), None),
        'small': Case(dict(upsample=False), None),
    }
    main = ['upsampled']
    graphs = 1
    test_wrong_settings_are_refused = None

    def batch(self, size=4, height=32, width=24):
        return toy_batch(size, height, width)

    def expected(self, model, images, data_samples):
        reference = zipf_reference(model.distiller.upsample)
        return reference(model, images, data_samples)

    def reaches(self, case):
        return dict.fromkeys(('student.loss', 'loss_zipf'), {'backbone', 'head'})


class TestUSKD(DistillerContract):
    component = USKD
    cases = {'default': Case(dict(), None)}
    main = ['default']
    graphs = 1
    wrong_settings = [(dict(uskd=dict(mu=-1.0)), 'mu of USKDLoss')]

    def expected(self, model, images, data_samples):
        return uskd_reference(model, images, data_samples)

    def reaches(self, case):
        student = {'backbone', 'head'}
        return {
            'student.loss': student,
            'loss_uskd_target': student,
            'loss_uskd_non_target': student,
            'loss_uskd_weak': {'backbone', 'weak_classifier'},
        }


def test_the_weak_classifier_reads_the_stage_before_the_last():
    model = uskd()
    model.loss(**toy_batch())['loss_uskd_weak'].backward()
    assert model.backbone.layer3[-1].bn2.weight.grad.abs().sum() > 0
    assert model.backbone.layer4[-1].bn2.weight.grad is None


def test_uskd_takes_mixed_images_and_zipf_ls_refuses_them():
    batch = toy_batch(4)
    for sample in batch['data_samples']:
        sample.set_gt_score(torch.eye(CLASSES)[[1, 2]].T @ torch.tensor([0.7, 0.3]))
    assert sum(terms_of(uskd().loss(**batch)).values()).isfinite()
    with pytest.raises(ValueError, match='ZipfLS ranks .* Remove train_cfg.augments'):
        zipf_ls().loss(**batch)


def test_without_the_weak_term_its_classifier_is_not_trained():
    model = uskd(uskd=dict(mu=0.0))
    assert not model.distiller.weak_classifier.weight.requires_grad


def test_students_that_do_not_fit_are_refused():
    student = toy_student_cfg()
    student['neck'] = None
    student['head'] = dict(type='ConformerHead', num_classes=10, in_channels=(64, 64))
    with pytest.raises(TypeError, match='needs a GlobalAveragePooling neck'):
        distilled(dict(type='frskd_mm.ZipfLS'), student)
    student = toy_student_cfg()
    student['backbone']['out_indices'] = (3,)
    with pytest.raises(ValueError, match='USKD compares stages'):
        distilled(dict(type='frskd_mm.USKD', stages=()), student)
