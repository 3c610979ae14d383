"""BYOT: its terms against the equations, and whom they train."""

import reference
import torch
from contracts import Case, DistillerContract
from toys import toy_model

from frskd_mm.models.distillers import BYOT

PARTS = {
    'backbone.conv1': 'stem',
    'backbone.bn1': 'stem',
    'backbone.layer1': 'stage_1',
    'backbone.layer2': 'stage_2',
    'backbone.layer3': 'stage_3',
    'backbone.layer4': 'stage_4',
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


class TestBYOT(DistillerContract):
    component = BYOT
    cases = {hint: Case(dict(hint=hint), None) for hint in ('norm', 'squared')}
    main = ['norm']
    parts = PARTS
    graphs = 1
    for_dense_prediction = True
    wrong_settings = [(dict(hint='l1'), "hint of BYOT must be one of .*'l1'")]

    def settings(self, case):
        return byot_cfg(**case.settings)

    def expected(self, model, images, data_samples):
        labels = [sample.gt_label.item() for sample in data_samples]
        feats = model.backbone(images)
        z = reference.classify(feats[-1], model.head.fc.weight, model.head.fc.bias)
        expected = {'student.loss': reference.cross_entropy(z, labels)}
        for level, branch in enumerate(model.distiller.branches):
            x = feats[level]
            for convs in branch.bottlenecks:
                x = convs(x)
            head = branch.twin.head.fc
            q = reference.classify(x, head.weight, head.bias)
            difference = x.mean(dim=(2, 3)) - feats[-1].detach().mean(dim=(2, 3))
            if model.distiller.hint == 'norm':  # over the batch, the authors' code
                distance = (difference**2).sum() ** 0.5
            else:  # of each image, the paper's text
                distance = sum((row**2).sum() for row in difference) / len(difference)
            expected.update(
                {
                    f'branch_{level}.loss': 0.7 * reference.cross_entropy(q, labels),
                    # No factor of the temperature squared in the authors' code.
                    f'branch_{level}.loss_kd': (
                        0.3 * reference.soft_label(q, z, 3.0) / 9
                    ),
                    f'branch_{level}.loss_hint': 0.03 * distance,
                }
            )
        return expected

    def reaches(self, case):
        reaches = {'student.loss': STAGES[2] | {'stage_4', 'head'}}
        for level in range(3):
            bottlenecks, classifier = {f'bottlenecks_{level}'}, {f'classifier_{level}'}
            branch = STAGES[level] | bottlenecks | classifier
            reaches[f'branch_{level}.loss'] = branch
            reaches[f'branch_{level}.loss_kd'] = branch
            reaches[f'branch_{level}.loss_hint'] = STAGES[level] | bottlenecks
        return reaches


def test_branches_keep_the_students_shapes():
    model = toy_model(byot_cfg())
    for size in ((16, 16), (25, 13)):
        feats = model.backbone(torch.randn(2, 3, *size))
        for level, branch in enumerate(model.distiller.branches):
            outs = branch(feats)
            assert [out.shape for out in outs] == [feat.shape for feat in feats]
            assert all(outs[i] is feats[i] for i in range(level + 1))


def test_one_returned_level_is_completed_by_recorded_ones():
    levels = toy_model(byot_cfg(), out_indices=(3,)).distiller.levels
    assert [stage.name for stage in levels.stages] == [
        'layer1',
        'layer2',
        'layer3',
        'its output',
    ]
