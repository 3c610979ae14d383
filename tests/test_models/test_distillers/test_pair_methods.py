"""CS-KD, DDGSD, consistency and DLB: the methods that read pairs."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from comparators import (
    cross_entropy,
    distilled,
    kl,
    labels_of,
    logits_of,
    pair_batch,
)
from contracts import Case, DistillerContract, assert_parity
from mmengine.logging import MessageHub
from mmpretrain.models.utils.batch_augments import Mixup
from torch import nn
from toys import terms_of, toy_batch

from frskd_mm.models.distillers import CSKD, DDGSD, DLB, Consistency

PARTNER = dict(
    CSKD='same_class',
    DDGSD='same_image',
    Consistency='same_image',
    DLB='same_image',
)


def build(method: str, **cfg: Any) -> nn.Module:
    return distilled(dict(type=f'frskd_mm.{method}', **cfg))


class PairContract(DistillerContract):
    """Batches of N images and their N partners."""

    main = ['default']
    partner = 'same_image'
    graphs = 1

    def batch(self, size=4, **sizes):
        return pair_batch(self.partner, size, **sizes)

    def reaches(self, case):
        return dict.fromkeys(('student.loss', self.term), {'backbone', 'head'})


class TestCSKD(PairContract):
    component = CSKD
    cases = {
        'default': Case(dict(soft_label=dict(temperature=4.0)), None),
        'half': Case(dict(soft_label=dict(temperature=2.0, loss_weight=0.5)), None),
    }
    partner = 'same_class'
    term = 'loss_cs_kd'
    test_wrong_settings_are_refused = None

    def expected(self, model, images, data_samples):
        soft_label = model.distiller.soft_label
        logits = logits_of(model, images[:4])
        partner_logits = logits_of(model, images[4:])
        divergence = kl(partner_logits, logits, soft_label.temperature)
        return {
            'student.loss': cross_entropy(logits, data_samples[:4]),
            'loss_cs_kd': soft_label.loss_weight * divergence,
        }


class TestDDGSD(PairContract):
    component = DDGSD
    cases = {
        'default': Case(dict(soft_label=dict(temperature=1.0)), None),
        'other': Case(dict(soft_label=dict(temperature=4.0), mmd_weight=0.3), None),
    }
    graphs = 2
    test_wrong_settings_are_refused = None

    def expected(self, model, images, data_samples):
        distiller, temperature = model.distiller, model.distiller.soft_label.temperature
        pooled = model.backbone(images)[-1].mean(dim=(2, 3))
        logits = model.head.fc(pooled)
        a, b = logits[:4], logits[4:]
        mmd = sum((pooled[:4, c].mean() - pooled[4:, c].mean()) ** 2 for c in range(64))
        return {
            'student.loss': cross_entropy(a, data_samples[:4])
            + cross_entropy(b, data_samples[4:]),
            'loss_kd': kl(b, a, temperature) + kl(a, b, temperature),
            'loss_mmd': distiller.mmd_weight * mmd,
        }

    def reaches(self, case):
        student = {'backbone', 'head'}
        return {'student.loss': student, 'loss_kd': student, 'loss_mmd': {'backbone'}}


class TestConsistency(PairContract):
    """The data of a case: how many of the four images are confident enough."""

    component = Consistency
    cases = {
        'default': Case(dict(threshold=0.0), 4),
        'sharpened': Case(dict(sharpening=0.4), 4),
        'two': Case(dict(sharpening=0.4), 2),
        'none': Case(dict(), 0),
    }
    term = 'loss_consistency'
    test_wrong_settings_are_refused = None

    def test_terms_and_gradients_are_those_of_the_equations(self, case, device, dtype):
        model, batch = self.build(case, device, dtype), self.given(device, dtype)
        logits = logits_of(deepcopy(model), batch['inputs'][:4])
        confidences = logits.softmax(dim=1).amax(dim=1).sort(descending=True).values
        bounds = [*confidences.tolist(), 0.0]
        model.distiller.threshold = bounds[case.data]
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        assert_parity(model, batch, self.expected, tolerance)

    def expected(self, model, images, data_samples):
        distiller = model.distiller
        clean, strong = (logits_of(model, part) for part in images.split(4))
        consistency = strong.sum() * 0.0
        for i in range(4):
            if clean[i].softmax(dim=0).max() > distiller.threshold:
                one = clean[i : i + 1].detach() / distiller.sharpening
                consistency = consistency + kl(one, strong[i : i + 1], 1.0) / 4
        return {
            'student.loss': cross_entropy(clean, data_samples[:4]),
            'loss_consistency': consistency,
        }


class TestDLB(PairContract):
    """The data of a case: images of the second batch."""

    component = DLB
    cases = {
        'default': Case(dict(soft_label=dict(loss_weight=0.5)), 4),
        'smaller': Case(dict(soft_label=dict(loss_weight=0.5)), 3),
    }
    term = 'loss_dlb'
    graphs = 0  # it keeps the last batch
    test_wrong_settings_are_refused = None

    def prepare(self, model):
        """Train one iteration; the weights move between the iterations."""
        torch.manual_seed(1)
        weight = model.head.fc.weight
        self.first, self.before = self.given(weight.device, weight.dtype), None
        before = deepcopy(model)
        losses = terms_of(model(**self.first, mode='loss'))
        assert set(losses) == {'student.loss'}
        sum(losses.values()).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.zero_grad(set_to_none=True)
        self.before = before

    def test_terms_and_gradients_are_those_of_the_equations(self, case, device, dtype):
        model = self.build(case, device, dtype)
        self.prepare(model)
        tolerance = 1e-4 if dtype == torch.float32 else 1e-9
        batch = self.given(device, dtype, size=case.data)
        assert_parity(model, batch, self.expected, tolerance)

    def expected(self, model, images, data_samples):
        size, then, last = len(images) // 2, self.first['inputs'], self.first
        taught = logits_of(self.before, then[:4]).detach()
        now, again = logits_of(model, images[:size]), logits_of(model, then[4:])
        union = data_samples[:size] + last['data_samples'][4:]
        return {
            'student.loss': cross_entropy(torch.cat([now, again]), union),
            'loss_dlb': 0.5 * kl(taught, again, 3.0),
        }


def test_dlb_logs_the_task_loss_of_the_new_images_as_a_plain_student_does():
    """The mean with those of the last iteration would flatter the learning curve."""
    model = build('DLB')
    model.loss(**pair_batch('same_image'))
    batch = pair_batch('same_image')
    expected = cross_entropy(
        logits_of(deepcopy(model), batch['inputs'][:4]), batch['data_samples'][:4]
    )
    torch.testing.assert_close(model.loss(**batch)['student.task'], expected.detach())


def test_dlb_starts_anew_each_epoch():
    model = build('DLB')
    hub = MessageHub.get_current_instance()
    hub.update_info('epoch', 0)
    model.loss(**pair_batch('same_image'))
    assert 'loss_dlb' in model.loss(**pair_batch('same_image'))
    hub.update_info('epoch', 1)
    assert 'loss_dlb' not in model.loss(**pair_batch('same_image'))
    assert 'loss_dlb' in model.loss(**pair_batch('same_image'))


@pytest.mark.parametrize(
    ('method', 'taught'),
    [('CSKD', slice(0, 4)), ('Consistency', slice(4, 8)), ('DDGSD', slice(0, 8))],
)
def test_the_teaching_view_is_detached(method: str, taught: slice):
    model = build(method).eval()  # no batch statistics between the images
    batch = pair_batch(PARTNER[method])
    batch['inputs'].requires_grad_()
    losses = model.loss(**batch)
    term = next(
        name
        for name in losses
        if name not in ('student.loss', 'student.task', 'confident')
    )
    losses[term].backward()
    is_taught = batch['inputs'].grad.abs().sum(dim=(1, 2, 3)) > 0
    assert is_taught[taught].all()
    assert is_taught.sum() == len(is_taught[taught])


@pytest.mark.parametrize('method', PARTNER)
def test_equal_views_leave_nothing_to_distil(method: str):
    model = build(method).eval()
    batch = pair_batch(PARTNER[method])
    batch['inputs'][4:] = batch['inputs'][:4]
    model.loss(**batch)
    losses = model.loss(**batch)
    for name, value in terms_of(losses).items():
        if name != 'student.loss':
            torch.testing.assert_close(value, torch.zeros(()), atol=1e-5, rtol=0)


@pytest.mark.parametrize('method', PARTNER)
def test_batches_without_pairs_are_refused(method: str):
    with pytest.raises(ValueError, match='needs batches of pairs.*PairDataset'):
        build(method).loss(**toy_batch(4))


@pytest.mark.parametrize('method', PARTNER)
def test_mixed_images_are_refused(method: str):
    """Mixup of the data preprocessor mixes across pairs."""
    model, batch = build(method), pair_batch(PARTNER[method])
    scores = torch.eye(10)[labels_of(batch['data_samples'])]
    batch['inputs'], scores = Mixup(alpha=1.0).mix(batch['inputs'], scores)
    for sample, score in zip(batch['data_samples'], scores):
        sample.set_gt_score(score)
    with pytest.raises(ValueError, match=f'{method} compares images .* Mixup'):
        model.loss(**batch)


def test_wrong_partners_are_refused():
    with pytest.raises(ValueError, match="partner='same_class'"):
        build('CSKD').loss(**pair_batch('same_image'))
