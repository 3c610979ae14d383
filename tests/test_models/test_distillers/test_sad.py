"""SAD: its term against the equation, and whom it trains."""

import pytest
import torch
from distiller_checks import (
    assert_all_parameters_are_trained,
    assert_leaves_a_plain_student,
    toy_model,
    trained_parts,
)
from toys import terms_of, toy_batch

PARTS = {
    'backbone.layer4': 'last_stage',
    'backbone.': 'earlier_stages',
    'head.': 'student_head',
}


def sad_cfg(**kwargs):
    return dict(type='frskd_mm.SAD', **kwargs)


def resized(energy, size):
    """Bilinear interpolation of (h, w), value by value."""
    rows = torch.zeros(size)
    for i in range(size[0]):
        for j in range(size[1]):
            value = 0
            places = []
            for k, target, source in (
                (i, size[0], len(energy)),
                (j, size[1], energy.shape[1]),
            ):
                position = max((k + 0.5) * source / target - 0.5, 0.0)
                low = min(int(position), source - 1)
                places.append((low, min(low + 1, source - 1), position - low))
            (top, bottom, down), (left, right, along) = places
            value = (1 - down) * (
                (1 - along) * energy[top, left] + along * energy[top, right]
            ) + down * (
                (1 - along) * energy[bottom, left] + along * energy[bottom, right]
            )
            rows[i, j] = value
    return rows


def attention(feat, size):
    """Softmax over positions of the energy of one sample (C, h, w)."""
    energy = resized((feat**2).sum(dim=0), size)
    exponentials = torch.exp(energy - energy.max())
    return exponentials / exponentials.sum()


@pytest.mark.parametrize('size', [(16, 16), (25, 13)])
def test_term_equals_the_equation(size):
    model = toy_model(sad_cfg(loss_weight=50.0))
    batch = toy_batch(2, *size)
    losses = model(**batch, mode='loss')
    feats = model.backbone(batch['inputs'])
    expected = 0
    for shallow, deep in zip(feats, feats[1:]):
        size = shallow.shape[2:]
        distances = [
            ((attention(s, size) - attention(d, size)) ** 2).mean()
            for s, d in zip(shallow, deep)
        ]
        expected = expected + sum(distances) / len(distances)
    assert set(terms_of(losses)) == {'student.loss', 'loss_sad'}
    assert losses['loss_sad'].item() > 0
    torch.testing.assert_close(losses['loss_sad'], 50.0 * expected)


def test_the_deepest_level_is_only_a_target():
    model = toy_model(sad_cfg())
    assert trained_parts(model, 'loss_sad', PARTS) == {'earlier_stages'}
    assert trained_parts(model, 'student.loss', PARTS) == {
        'earlier_stages',
        'last_stage',
        'student_head',
    }


def test_nothing_is_added_to_the_student():
    model = toy_model(sad_cfg())
    assert not list(model.distiller.parameters())
    assert_all_parameters_are_trained(model)
    assert_leaves_a_plain_student(model)


def test_schedule():
    model = toy_model(sad_cfg(weight_schedule=dict(begin=5)))
    assert set(terms_of(model(**toy_batch(), mode='loss'))) == {'student.loss'}


def test_one_level_is_refused():
    with pytest.raises(ValueError, match='out_indices'):
        toy_model(sad_cfg(), out_indices=(3,))
