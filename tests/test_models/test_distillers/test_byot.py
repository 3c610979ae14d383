"""BYOT: its terms against the equations, and whom they train."""

import pytest
import reference
import torch
from distiller_checks import (
    assert_all_parameters_are_trained,
    assert_leaves_a_plain_student,
    toy_model,
    trained_parts,
)
from toys import terms_of, toy_batch

PARTS = {
    'backbone.conv1': 'stem',
    'backbone.bn1': 'stem',
    'backbone.layer1': 'stage_1',
    'backbone.layer2': 'stage_2',
    'backbone.layer3': 'stage_3',
    'backbone.layer4': 'stage_4',
    'head.': 'student_head',
    'distiller.branches.0.bottlenecks.': 'bottlenecks_0',
    'distiller.branches.0.twin.': 'classifier_0',
    'distiller.branches.1.bottlenecks.': 'bottlenecks_1',
    'distiller.branches.1.twin.': 'classifier_1',
    'distiller.branches.2.bottlenecks.': 'bottlenecks_2',
    'distiller.branches.2.twin.': 'classifier_2',
}
STAGES = {0: {'stem', 'stage_1'}}
STAGES[1] = STAGES[0] | {'stage_2'}
STAGES[2] = STAGES[1] | {'stage_3'}


def byot_cfg(**kwargs):
    return dict(
        type='frskd_mm.BYOT',
        **{
            'soft_label': dict(
                type='frskd_mm.SoftLabelLoss', temperature=3.0, loss_weight=0.3 / 9
            ),
            **kwargs,
        },
    )


@pytest.mark.parametrize('hint', ['norm', 'squared'])
def test_terms_equal_the_equations(hint):
    model, batch = toy_model(byot_cfg(hint=hint)), toy_batch()
    labels = [sample.gt_label.item() for sample in batch['data_samples']]
    losses = model(**batch, mode='loss')
    feats = model.backbone(batch['inputs'])
    z = reference.classify(feats[-1], model.head.fc.weight, model.head.fc.bias)
    expected = {'student.loss': reference.cross_entropy(z, labels)}
    for level, branch in enumerate(model.distiller.branches):
        x = feats[level]
        for convs in branch.bottlenecks:
            x = convs(x)
        head = branch.twin.head.fc
        q = reference.classify(x, head.weight, head.bias)
        difference = x.mean(dim=(2, 3)) - feats[-1].mean(dim=(2, 3))
        if hint == 'norm':  # over the batch, the authors' code
            distance = (difference**2).sum() ** 0.5
        else:  # of each image, the paper's text
            distance = sum((row**2).sum() for row in difference) / len(difference)
        expected.update(
            {
                f'branch_{level}.loss': 0.7 * reference.cross_entropy(q, labels),
                # No factor of the temperature squared in the authors' code.
                f'branch_{level}.loss_kd': 0.3 * reference.soft_label(q, z, 3.0) / 9,
                f'branch_{level}.loss_hint': 0.03 * distance,
            }
        )
    assert set(terms_of(losses)) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('level', [0, 1, 2])
def test_each_term_trains_only_its_parts(level):
    model = toy_model(byot_cfg())
    bottlenecks, classifier = {f'bottlenecks_{level}'}, {f'classifier_{level}'}
    reaches = {
        'student.loss': STAGES[2] | {'stage_4', 'student_head'},
        f'branch_{level}.loss': STAGES[level] | bottlenecks | classifier,
        f'branch_{level}.loss_kd': STAGES[level] | bottlenecks | classifier,
        f'branch_{level}.loss_hint': STAGES[level] | bottlenecks,
    }
    for term, parts in reaches.items():
        assert trained_parts(model, term, PARTS) == parts, term


def test_every_parameter_is_trained_and_the_student_is_plain():
    model = toy_model(byot_cfg())
    assert_all_parameters_are_trained(model)
    assert_leaves_a_plain_student(model)


def test_branches_keep_the_students_shapes():
    model = toy_model(byot_cfg())
    for size in ((16, 16), (25, 13)):
        feats = model.backbone(torch.randn(2, 3, *size))
        for level, branch in enumerate(model.distiller.branches):
            outs = branch(feats)
            assert [out.shape for out in outs] == [feat.shape for feat in feats]
            assert all(outs[i] is feats[i] for i in range(level + 1))


def test_wrong_arguments():
    with pytest.raises(ValueError, match='out_indices'):
        toy_model(byot_cfg(), out_indices=(3,))
    with pytest.raises(ValueError, match="hint of BYOT must be one of .*'l1'"):
        toy_model(byot_cfg(hint='l1'))
