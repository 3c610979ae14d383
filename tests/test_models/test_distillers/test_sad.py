"""SAD: its term against the equation, and whom it trains."""

import pytest
import reference
import torch
from contracts import Case, DistillerContract
from toys import terms_of, toy_batch, toy_model

from frskd_mm.models.distillers import SAD


def resized(energy, size):
    """Bilinear interpolation of (h, w), value by value."""
    rows = torch.zeros(size).to(energy)
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


class TestSAD(DistillerContract):
    """The deepest level is only a target."""

    component = SAD
    cases = {'default': Case(dict(loss_weight=50.0), None)}
    main = ['default']
    parts = {'backbone.layer4': 'last_stage', 'backbone.': 'earlier_stages'}
    graphs = 1
    for_dense_prediction = True
    test_wrong_settings_are_refused = None

    def batch(self, size=2, height=8, width=12):
        return toy_batch(size, height, width)

    def expected(self, model, images, data_samples):
        feats, total = model.backbone(images), 0
        for shallow, deep in zip(feats, feats[1:]):
            size = shallow.shape[2:]
            distances = [
                ((attention(s, size) - attention(d, size).detach()) ** 2).mean()
                for s, d in zip(shallow, deep)
            ]
            total = total + sum(distances) / len(distances)
        logits = reference.classify(feats[-1], model.head.fc.weight, model.head.fc.bias)
        labels = [sample.gt_label.item() for sample in data_samples]
        return {
            'student.loss': reference.cross_entropy(logits, labels),
            'loss_sad': 50.0 * total,
        }

    def reaches(self, case):
        return {
            'student.loss': {'earlier_stages', 'last_stage', 'head'},
            'loss_sad': {'earlier_stages'},
        }

    def test_adds_no_parameter(self):
        assert not list(self.build(self.cases['default']).distiller.parameters())


def test_schedule():
    model = toy_model(dict(type='frskd_mm.SAD', weight_schedule=dict(begin=5)))
    assert set(terms_of(model(**toy_batch(), mode='loss'))) == {'student.loss'}


def test_one_level_is_refused():
    sad = dict(type='frskd_mm.SAD', stages=())
    with pytest.raises(ValueError, match='SAD compares stages .* returns only 1'):
        toy_model(sad, out_indices=(3,))
