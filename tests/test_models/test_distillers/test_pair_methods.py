"""CS-KD, DDGSD, consistency and DLB: the methods that read pairs."""

from copy import deepcopy
from typing import Any, Dict, List

import pytest
import torch
from comparators import (
    assert_parity,
    cross_entropy,
    distilled,
    kl,
    labels_of,
    logits_of,
    pair_batch,
    parts_reached,
    plain_prediction,
)
from mmengine.logging import MessageHub
from mmpretrain.models.utils.batch_augments import Mixup
from torch import Tensor, nn
from toys import terms_of, toy_batch

PARTNER = dict(
    CSKD='same_class',
    DDGSD='same_image',
    Consistency='same_image',
    DLB='same_image',
)


def build(method: str, **cfg: Any) -> nn.Module:
    return distilled(dict(type=f'frskd_mm.{method}', **cfg))


@pytest.mark.parametrize(('temperature', 'weight'), [(4.0, 1.0), (2.0, 0.5)])
def test_cs_kd_equals_its_equation(temperature: float, weight: float):
    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        logits = logits_of(model, images[:4])
        partner_logits = logits_of(model, images[4:])
        return {
            'student.loss': cross_entropy(logits, samples[:4]),
            'loss_cs_kd': weight * kl(partner_logits, logits, temperature),
        }

    model = build('CSKD', soft_label=dict(temperature=temperature, loss_weight=weight))
    assert_parity(model, pair_batch('same_class'), reference)


@pytest.mark.parametrize(('temperature', 'mmd_weight'), [(1.0, 5e-4), (4.0, 0.3)])
def test_ddgsd_equals_its_equation(temperature: float, mmd_weight: float):
    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        pooled = model.backbone(images)[-1].mean(dim=(2, 3))
        logits = model.head.fc(pooled)
        a, b = logits[:4], logits[4:]
        mmd = sum((pooled[:4, c].mean() - pooled[4:, c].mean()) ** 2 for c in range(64))
        return {
            'student.loss': cross_entropy(a, samples[:4])
            + cross_entropy(b, samples[4:]),
            'loss_kd': kl(b, a, temperature) + kl(a, b, temperature),
            'loss_mmd': mmd_weight * mmd,
        }

    model = build(
        'DDGSD', soft_label=dict(temperature=temperature), mmd_weight=mmd_weight
    )
    assert_parity(model, pair_batch('same_image'), reference)


@pytest.mark.parametrize(
    ('sharpening', 'num_confident'), [(1.0, 4), (0.4, 4), (0.4, 2), (1.0, 0)]
)
def test_consistency_equals_its_equation(sharpening: float, num_confident: int):
    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        clean = logits_of(model, images[:4])
        strong = logits_of(model, images[4:])
        consistency = strong.sum() * 0.0
        for i in range(4):
            if clean[i].softmax(dim=0).max() > threshold:
                one = clean[i : i + 1].detach() / sharpening
                consistency = consistency + kl(one, strong[i : i + 1], 1.0) / 4
        return {
            'student.loss': cross_entropy(clean, samples[:4]),
            'loss_consistency': consistency,
        }

    model, batch = build('Consistency', sharpening=sharpening), pair_batch('same_image')
    confidences = logits_of(deepcopy(model), batch['inputs'][:4]).softmax(dim=1).amax(1)
    bounds = [*confidences.sort(descending=True).values.tolist(), 0.0]
    threshold = model.distiller.threshold = bounds[num_confident]
    assert_parity(model, batch, reference)


@pytest.mark.parametrize('last_size', [4, 3])
def test_dlb_equals_its_equation(last_size: int):
    first, second = pair_batch('same_image'), pair_batch('same_image', last_size)

    def reference(model: nn.Module, images: Tensor, samples: List[Any]) -> Dict:
        then = logits_of(before, first['inputs'][:4]).detach()
        now = logits_of(model, images[:last_size])
        again = logits_of(model, first['inputs'][4:])
        both = torch.cat([now, again])
        union = samples[:last_size] + first['data_samples'][4:]
        return {
            'student.loss': cross_entropy(both, union),
            'loss_dlb': 0.5 * kl(then, again, 3.0),
        }

    model = build('DLB', soft_label=dict(loss_weight=0.5))
    before = distilled(dict(type='frskd_mm.DLB'))
    before.load_state_dict(model.state_dict())
    losses = terms_of(model.loss(**first))
    assert set(losses) == {'student.loss'}
    # The weights move between the iterations.
    sum(losses.values()).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.zero_grad(set_to_none=True)
    assert_parity(model, second, reference)


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
    ('method', 'term', 'reaches'),
    [
        ('CSKD', 'student.loss', {'backbone', 'head'}),
        ('CSKD', 'loss_cs_kd', {'backbone', 'head'}),
        ('DDGSD', 'student.loss', {'backbone', 'head'}),
        ('DDGSD', 'loss_kd', {'backbone', 'head'}),
        ('DDGSD', 'loss_mmd', {'backbone'}),
        ('Consistency', 'student.loss', {'backbone', 'head'}),
        ('Consistency', 'loss_consistency', {'backbone', 'head'}),
        ('DLB', 'student.loss', {'backbone', 'head'}),
        ('DLB', 'loss_dlb', {'backbone', 'head'}),
    ],
)
def test_each_term_trains_only_its_parts(method: str, term: str, reaches: set):
    model = build(method)
    batch = pair_batch(PARTNER[method])
    losses = model.loss(**batch)
    if method == 'DLB':
        losses = model.loss(**batch)
    assert parts_reached(model, losses[term]) == reaches


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


@pytest.mark.parametrize('method', PARTNER)
def test_a_plain_student_stays(method: str):
    model = build(method)
    model.loss(**pair_batch(PARTNER[method]))
    ours, plain = plain_prediction(model, torch.randn(2, 3, 16, 16))
    assert torch.equal(ours, plain)
    assert not any(key.startswith('distiller.') for key in model.state_dict())
