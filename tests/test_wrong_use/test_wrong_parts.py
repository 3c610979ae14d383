"""Wrong arguments of the registered parts, and the message that each gets."""

import copy
from functools import partial

import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TRANSFORMS
from toys import toy_frskd_cfg, toy_student_cfg

from frskd_mm.models.tasks.base import rewire

NAN, INF = float('nan'), float('inf')
LEVELS = dict(in_channels=[4, 8])
ADAPTED = dict(in_channels=[4], out_channels=[8])
SOFT_LABEL = dict(type='frskd_mm.SoftLabelLoss')

#: Registry, part, its other arguments; then argument, wrong value, message.
PARTS = {
    'BiFPN': (MODELS, LEVELS),
    'BiFPNc': (MODELS, LEVELS),
    'BiFPNSeg': (MODELS, dict(in_channels=[4, 4])),
    'FPNBiFPNSeg': (MODELS, dict(in_channels=[4, 8], out_channels=4)),
    'WideResNet': (MODELS, {}),
    'EfficientNetFeatures': (MODELS, {}),
    'WeightSchedule': (MODELS, {}),
    'SoftLabelLoss': (MODELS, {}),
    'PixelSoftLabelLoss': (MODELS, {}),
    'DetSoftLabelLoss': (MODELS, {}),
    'AttentionTransferLoss': (MODELS, {}),
    'DetAttentionTransferLoss': (MODELS, {}),
    'FitNetLoss': (MODELS, ADAPTED),
    'OverhaulLoss': (MODELS, {**ADAPTED, 'margin': 'batch'}),
    'ZipfLoss': (MODELS, {}),
    'ChannelsLastHook': (HOOKS, {}),
    'AggregatedPredictionHook': (HOOKS, {}),
    'Calibration': (METRICS, {}),
    'Digits': (DATASETS, dict(pipeline=[])),
    'DigitScenesCls': (DATASETS, dict(pipeline=[], num_scenes=1)),
    'DigitScenesSeg': (DATASETS, dict(pipeline=[], num_scenes=1)),
    'DigitScenesDet': (DATASETS, dict(pipeline=[], num_scenes=1)),
    'CIFAR100': (DATASETS, {}),
    'CamVid': (DATASETS, dict(data_root='nowhere')),
    'LabelNoise': (TRANSFORMS, dict(fraction=0.4, num_classes=3)),
    'PairDataset': (DATASETS, dict(partner='same_image', dataset={})),
}
CASES = [
    ('BiFPN', 'in_channels', 64, 'must be a list of whole numbers, got 64'),
    ('BiFPN', 'in_channels', ['4', '8'], 'must be a list of whole numbers'),
    ('BiFPN', 'in_channels', [4, 0], 'must be >= 1 each'),
    ('BiFPN', 'in_channels', [4], 'refines at least two feature maps'),
    ('BiFPN', 'out_channels', '64', "a whole number or a list .*got '64'"),
    ('BiFPN', 'out_channels', [64], 'has 1 entries, but in_channels has 2'),
    ('BiFPN', 'depth', 1.5, 'depth of BiFPN must be a whole number'),
    ('BiFPN', 'num_layers', 0, 'num_layers of BiFPN must be >= 1'),
    ('BiFPN', 'upsample_mode', 'bilinaer', 'Did you mean bilinear'),
    ('BiFPN', 'norm_cfg', 'BN', "norm_cfg of BiFPN must be a dict or None, got 'BN'"),
    ('BiFPN', 'with_cp', 'yes', 'with_cp of BiFPN must be True or False'),
    ('BiFPN', 'last_bottom_up', 2, 'must be a level, 0 to 1'),
    ('BiFPN', 'widht', 2, 'BiFPN has no argument widht'),
    ('BiFPNc', 'width', NAN, 'width of BiFPNc must be a finite number, got nan'),
    ('BiFPNc', 'width', -1, 'width of BiFPNc must be positive'),
    ('BiFPNc', 'width', [2, 2], 'width of BiFPNc must be a finite number, got'),
    ('BiFPNc', 'out_channels', 8, 'BiFPNc has no out_channels'),
    ('BiFPNSeg', 'num_layers', -1, 'num_layers of BiFPNSeg must be >= 1'),
    ('BiFPNSeg', 'last_bottom_up', 1, 'True or False, got 1'),
    ('FPNBiFPNSeg', 'out_channels', [4, 4], 'must be a whole number'),
    ('FPNBiFPNSeg', 'num_extra_levels', -1, 'must be >= 0, got -1'),
    ('WideResNet', 'depth', '16', 'depth of WideResNet must be a whole number'),
    ('WideResNet', 'depth', 17, r'must be 6 \* n \+ 4'),
    ('WideResNet', 'widen_factor', 0, 'must be >= 1, got 0'),
    ('WideResNet', 'drop_rate', 1.5, r'within \[0, 1\], got 1.5'),
    ('WideResNet', 'drop_rate', NAN, 'a finite number, got nan'),
    ('WideResNet', 'out_indices', 2, 'a list of whole numbers, got 2'),
    ('WideResNet', 'out_indices', (3,), r'taken from \(0, 1, 2\)'),
    ('EfficientNetFeatures', 'out_indices', (), 'a list of 1 or more'),
    ('EfficientNetFeatures', 'frozen_stages', 7, 'keeps 6 stages.*frozen_stages=7'),
    (
        'EfficientNetFeatures',
        'out_indices',
        3,
        'of EfficientNetFeatures must be a list',
    ),
    ('WeightSchedule', 'begin', -1, 'begin of WeightSchedule must be >= 0'),
    ('WeightSchedule', 'begin', '3', "must be a finite number, got '3'"),
    ('WeightSchedule', 'end', INF, 'a finite number or None, got inf'),
    ('WeightSchedule', 'end', 0, 'Need 0 <= begin < end'),
    ('WeightSchedule', 'ramp', 'sigmod', 'Did you mean sigmoid'),
    ('WeightSchedule', 'by_epoch', 'no', 'True or False'),
    ('SoftLabelLoss', 'temperature', 0, 'temperature of SoftLabelLoss must be positi'),
    ('SoftLabelLoss', 'temperature', '4', "must be a finite number, got '4'"),
    ('SoftLabelLoss', 'temperature', NAN, 'must be a finite number, got nan'),
    ('SoftLabelLoss', 'loss_weight', -1, 'loss_weight of SoftLabelLoss must be >= 0'),
    ('SoftLabelLoss', 'loss_weight', NAN, 'must be a finite number, got nan'),
    ('SoftLabelLoss', 'loss_weight', INF, 'must be a finite number, got inf'),
    ('SoftLabelLoss', 'loss_weight', None, 'must be a finite number, got None'),
    ('SoftLabelLoss', 'loss_weight', [1.0], 'must be a finite number'),
    ('SoftLabelLoss', 'temprature', 4, 'Did you mean temperature'),
    ('SoftLabelLoss', 'cls', 'sigmod', 'Did you mean sigmoid'),
    ('SoftLabelLoss', 'bbox_weight', -0.1, 'bbox_weight of .*>= 0, got -0.1'),
    ('SoftLabelLoss', 'distribution_weight', NAN, 'distribution_weight of'),
    (
        'PixelSoftLabelLoss',
        'upsample',
        'no',
        'upsample of PixelSoftLabelLoss must be T',
    ),
    ('PixelSoftLabelLoss', 'mask_ignored', 0, 'True or False, got 0'),
    ('PixelSoftLabelLoss', 'temperature', -1, 'temperature of PixelSoftLabelLoss'),
    ('DetSoftLabelLoss', 'foreground', 'box', 'foreground of .*Did you mean boxes'),
    ('DetSoftLabelLoss', 'loss_weight', '2', 'loss_weight of DetSoftLabelLoss must be'),
    ('AttentionTransferLoss', 'loss_weight', -100, 'must be >= 0, got -100'),
    ('AttentionTransferLoss', 'loss_weight', True, 'must be a finite number, got True'),
    ('AttentionTransferLoss', 'reduction', 'avg', r"one of \('mean', 'sum', 'norm'\)"),
    ('DetAttentionTransferLoss', 'foreground', 1, 'a text or None, got 1'),
    ('FitNetLoss', 'loss_weight', NAN, 'loss_weight of FitNetLoss'),
    ('FitNetLoss', 'norm_cfg', 'BN', 'norm_cfg of FitNetLoss must be a dict'),
    ('OverhaulLoss', 'margin', 'mean', r"one of \('norm', 'batch'\), got 'mean'"),
    ('OverhaulLoss', 'loss_weight', -1e-3, 'loss_weight of OverhaulLoss must be >= 0'),
    ('ZipfLoss', 'power', NAN, 'power of ZipfLoss'),
    ('ChannelsLastHook', 'devices', 'cpu', "a list of texts, got 'cpu'"),
    ('ChannelsLastHook', 'device', 'cpu', 'Did you mean devices'),
    ('AggregatedPredictionHook', 'weight', 1, 'has no argument weight'),
    ('Calibration', 'num_bins', 0, 'num_bins of Calibration must be >= 1'),
    ('Calibration', 'collect_device', 'cuda', r"one of \('cpu', 'gpu'\), got 'cuda'"),
    ('Digits', 'split', 'dev', r"split of Digits must be one of \('train', 'test', "),
    ('Digits', 'split', 'tets', 'Did you mean test'),
    ('Digits', 'num_per_class', '10', 'a whole number or None'),
    ('Digits', 'num_per_class', 101, r'must lie in \[1, 100\]'),
    ('Digits', 'size', 0, 'size of Digits must be >= 1'),
    ('DigitScenesCls', 'num_scenes', 0, 'num_scenes of DigitScenesCls must be >= 1'),
    ('DigitScenesSeg', 'num_scenes', 1.0, 'a whole number, got 1.0'),
    ('DigitScenesSeg', 'scene', 96, 'scene of DigitScenesSeg must be a dict'),
    ('DigitScenesDet', 'scene', dict(sizes=96), 'no argument sizes. Did you mean size'),
    ('DigitScenesDet', 'scene', dict(noise=NAN), 'noise of DigitScenes must be'),
    ('DigitScenesDet', 'scene', dict(num_digits=3), 'a list of 2 whole numbers, got 3'),
    ('DigitScenesDet', 'scene', dict(num_digits=(3, 1)), 'fewest, most'),
    ('CIFAR100', 'split', 'validation', r"one of \('train', 'test'\)"),
    ('CIFAR100', 'num_per_class', 0, r'must lie in \[1, 500\]'),
    ('CIFAR100', 'label_noise', 1.2, r'must be within \[0, 1\], got 1.2'),
    ('LabelNoise', 'fraction', 40, r'must be within \[0, 1\], got 40'),
    ('LabelNoise', 'num_classes', 1, 'num_classes of LabelNoise must be >= 2'),
    ('CamVid', 'split', 'dev', 'split of CamVid must be one of'),
    ('CamVid', 'data_root', None, 'data_root of CamVid must be a text'),
    ('PairDataset', 'partner', 'same_clas', 'Did you mean same_class'),
    ('PairDataset', 'extra_transforms', dict(type='Resize'), 'must be a list'),
]


def case_id(value):
    return str(value)[:24]


@pytest.mark.parametrize(('part', 'argument', 'value', 'message'), CASES, ids=case_id)
def test_parts_refuse_wrong_arguments(part, argument, value, message):
    registry, others = PARTS[part]
    cfg = dict(type=f'frskd_mm.{part}', **{**others, argument: value})
    with pytest.raises((ValueError, TypeError), match=message):
        registry.build(cfg)


@pytest.mark.parametrize('part', [*PARTS])
def test_parts_are_built_where_nothing_is_wrong(part):
    registry, others = PARTS[part]
    if part not in ('CIFAR100', 'CamVid', 'PairDataset'):  # these want data
        registry.build(dict(type=f'frskd_mm.{part}', **copy.deepcopy(others)))


METHODS = {
    'FRSKD': toy_frskd_cfg(),
    'FRSKDSLA': dict(toy_frskd_cfg(), type='frskd_mm.FRSKDSLA'),
    'BYOT': dict(soft_label=SOFT_LABEL),
    'ONE': dict(soft_label=SOFT_LABEL),
    'SAD': {},
    'DDGSD': {},
    'Consistency': {},
    'CSKD': {},
    'DLB': {},
    'SLA': {},
    'TfKDReg': {},
    'PSKD': dict(num_samples=10),
    'PretrainedTeacher': dict(
        soft_label=SOFT_LABEL, teacher='a.py', checkpoint='a.pth'
    ),
}
METHOD_CASES = [
    (
        'FRSKD',
        'detach_inputs',
        'no',
        'detach_inputs of FRSKD must be True or False, got',
    ),
    ('FRSKD', 'detach_inputs', 1, 'True or False, got 1'),
    ('FRSKD', 'self_teacher_loss_weight', -1, 'must be >= 0, got -1'),
    ('FRSKD', 'self_teacher_loss_weight', NAN, 'a finite number, got nan'),
    ('FRSKD', 'neck', 'BiFPNc', "neck of FRSKD must be a dict, got 'BiFPNc'"),
    ('FRSKD', 'soft_label', None, 'soft_label of FRSKD must be a dict, got None'),
    ('FRSKD', 'feature_loss', 3, 'feature_loss of FRSKD must be a dict'),
    ('FRSKD', 'weight_schedule', 0.5, 'weight_schedule of FRSKD must be a dict'),
    ('FRSKD', 'source', 'head', r"one of \('backbone', 'neck'\), got 'head'"),
    ('FRSKD', 'source', 1, 'source of FRSKD must be a text'),
    ('FRSKD', 'input_size', 32, 'input_size of FRSKD must be a list of 2 whole'),
    ('FRSKD', 'input_size', (32,), 'a list of 2 whole numbers'),
    ('FRSKD', 'input_size', (0, 32), 'input_size of FRSKD must be >= 1 each'),
    (
        'FRSKD',
        'twin',
        dict(head=dict(num_classes=7)),
        'head.num_classes=7, but the stu',
    ),
    ('FRSKD', 'interval', 0, 'interval of FRSKD must be >= 1, got 0'),
    ('FRSKD', 'detach_input', True, 'Did you mean detach_inputs'),
    ('FRSKDSLA', 'detach_inputs', 'no', 'detach_inputs of FRSKDSLA must be True'),
    ('FRSKDSLA', 'aggregate_loss', 1.0, 'aggregate_loss of FRSKDSLA must be a dict'),
    ('BYOT', 'label_weight', -0.7, 'label_weight of BYOT must be >= 0'),
    ('BYOT', 'hint_weight', NAN, 'hint_weight of BYOT'),
    ('BYOT', 'hint', 'sqaured', 'Did you mean squared'),
    ('ONE', 'num_branches', 1, 'num_branches of ONE must be >= 2, got 1'),
    ('ONE', 'num_branches', '3', 'a whole number'),
    ('SAD', 'loss_weight', -0.1, 'loss_weight of SAD must be >= 0'),
    ('SAD', 'loss_weight', '0.1', "a finite number, got '0.1'"),
    ('DDGSD', 'mmd_weight', INF, 'mmd_weight of DDGSD'),
    ('Consistency', 'sharpening', 0, 'sharpening of Consistency must be positive'),
    ('Consistency', 'threshold', 95, r'within \[0, 1\], got 95'),
    ('CSKD', 'soft_label', 4.0, 'soft_label of CSKD must be a dict'),
    ('DLB', 'soft_labels', {}, 'Did you mean soft_label'),
    ('SLA', 'soft_label', 'KL', 'soft_label of SLA must be a dict'),
    ('TfKDReg', 'alpha', 1.1, r'alpha of TfKDReg must be within \[0, 1\]'),
    ('TfKDReg', 'correct_prob', 0, 'correct_prob of TfKDReg must be positive'),
    ('TfKDReg', 'temperature', -20, 'temperature of TfKDReg must be positive'),
    ('PSKD', 'alpha', -0.1, r'alpha of PSKD must be within \[0, 1\]'),
    ('PSKD', 'num_samples', 0, 'num_samples of PSKD must be >= 1'),
    ('PSKD', 'num_samples', None, 'num_samples of PSKD must be a whole number'),
    ('PretrainedTeacher', 'student_loss_weight', -1, 'must be >= 0, got -1'),
    ('PretrainedTeacher', 'checkpoint', 3, 'checkpoint of PretrainedTeacher must be'),
    ('PretrainedTeacher', 'checkpoint', None, 'needs a trained teacher'),
]


@pytest.mark.parametrize(
    ('method', 'argument', 'value', 'message'), METHOD_CASES, ids=case_id
)
def test_methods_refuse_wrong_arguments(method, argument, value, message):
    distiller = {'type': f'frskd_mm.{method}', **copy.deepcopy(METHODS[method])}
    distiller[argument] = value
    with pytest.raises((ValueError, TypeError), match=message):
        MODELS.build(
            dict(
                type='frskd_mm.Distilled',
                student=toy_student_cfg(),
                distiller=distiller,
            )
        )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(student=None), 'student of Distilled must be a dict, got None'),
        (dict(distiller='frskd'), "distiller of Distilled must be a dict, got 'frskd'"),
        (dict(distill={}), 'not distill'),
    ],
)
def test_the_distilled_model_refuses_wrong_parts(change, message):
    cfg = dict(
        type='frskd_mm.Distilled',
        student=toy_student_cfg(),
        distiller=toy_frskd_cfg(),
    )
    with pytest.raises((TypeError, ValueError), match=message):
        MODELS.build({**cfg, **change})


def test_missing_arguments_are_named():
    build = partial(MODELS.build, dict(type='frskd_mm.Distilled', student={}))
    with pytest.raises(TypeError, match='Distilled needs distiller'):
        build()
    distiller = toy_frskd_cfg()
    distiller.pop('neck')
    with pytest.raises(TypeError, match='FRSKD needs neck'):
        MODELS.build(
            dict(
                type='frskd_mm.Distilled',
                student=toy_student_cfg(),
                distiller=distiller,
            )
        )


def test_a_level_that_there_is_not_is_named():
    for index in (4, -5, [0, 4]):
        head = ConfigDict(type='FCNHead', in_channels=8, in_index=index)
        if isinstance(index, list):
            head.in_channels = [8, 8]
        with pytest.raises(
            ValueError, match='in_index=.* of FCNHead is out of range: t'
        ):
            rewire(head, [8, 8, 8, 8], [16] * 4)


def test_the_tables_are_as_long_as_promised():
    assert len(CASES) + len(METHOD_CASES) >= 120
