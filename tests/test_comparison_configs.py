"""The written configs are what ``--method`` makes of the plain students'."""

import ast
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from mmpretrain.structures import DataSample

from frskd_mm.engine import load_config, method_names, student_config, wrap
from frskd_mm.lab.compare.grid import find_differences
from frskd_mm.utils.model import build_model

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
#: Left over from the bases of a written config; the runner does not read them.
VARIABLES = {'distiller', 'student', 'teacher', 'dataset_wrapper'}
#: Added by ``--method``, for whoever runs the config without the tools.
ADDED = {'custom_imports'}
WIDTH = 'model.distiller.neck.width'
NORM = 'model.distiller.neck.norm_cfg'
SCHEDULE = 'model.distiller.weight_schedule'
#: Written configs: their plain student, the method, and what they set deliberately.
WRITTEN = {
    'frskd_resnet18_cifar100': ('resnet18_cifar100', 'frskd', set()),
    'frskd_retinanet_r50_coco': (
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        'frskd',
        set(),
    ),
    'mmpretrain/frskd_wrn16-2_1xb128_cifar100': (
        'mmpretrain/wrn16-2_1xb128_cifar100',
        'frskd',
        set(),
    ),
    'mmpretrain/frskd-bifpn_resnet18_1xb128_cifar100': (
        'resnet18_cifar100',
        'frskd-bifpn',
        set(),
    ),
    'mmpretrain/frskd-sla_resnet18_1xb128_cifar100': (
        'resnet18_cifar100',
        'frskd-sla',
        set(),
    ),
    'mmpretrain/cs-kd_resnet18_1xb128_cifar100': ('resnet18_cifar100', 'cs-kd', set()),
    # The flag leaves the teacher to the user, the config names one.
    'mmpretrain/kd_wrn16-2_1xb128_cifar100': (
        'mmpretrain/wrn16-2_1xb128_cifar100',
        'kd',
        {'model.distiller.teacher', 'model.distiller.checkpoint'},
    ),
    'mmdet/frskd_retinanet_r18-narrow_1xb8-24e_bccd': (
        'mmdet/retinanet_r18-narrow_1xb8-24e_bccd',
        'frskd',
        set(),
    ),
    'mmseg/frskd_pspnet_r50-d8_4xb4-20k_voc12aug-512x512': (
        'mmseg::pspnet/pspnet_r50-d8_4xb4-20k_voc12aug-512x512.py',
        'frskd',
        set(),
    ),
    'mmseg/frskd_segformer_mit-b0_8xb2-160k_ade20k-512x512': (
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        'frskd',
        {WIDTH, 'optim_wrapper.paramwise_cfg.custom_keys.distiller'},
    ),
    'mmseg/frskd_fcn_r18-c16_1xb8-30e_camvid-240x180': (
        'mmseg/fcn_r18-c16_1xb8-30e_camvid-240x180',
        'frskd',
        {WIDTH, f'{NORM}.type', f'{NORM}.requires_grad', f'{SCHEDULE}.by_epoch'},
    ),
    'digits/frskd_wrn10-1_digits': ('digits/wrn10-1_digits', 'frskd', set()),
    'digits/frskd_fcn_r18-c16_digit-scenes': (
        'digits/fcn_r18-c16_digit-scenes',
        'frskd',
        {WIDTH, f'{NORM}.type', f'{NORM}.requires_grad'},
    ),
    'digits/frskd_retinanet_r18-c16_digit-scenes': (
        'digits/retinanet_r18-c16_digit-scenes',
        'frskd',
        {
            f'{NORM}.type',
            f'{NORM}.num_groups',
            f'{SCHEDULE}.begin',
            f'{SCHEDULE}.ramp',
        },
    ),
}
#: Written configs that no flag makes: the published segmentors, whose neck is another
#: one, and settings of the runner.
NOT_A_METHOD = {
    'mmseg/frskd_efficientnet-b0-bifpn_1xb16-60e_voc0712-512x512',
    'mmseg/frskd_efficientnet-b1-bifpn_1xb16-60e_voc0712-512x512',
    'scale/frskd_resnet18_cifar100_deepspeed',
    'scale/frskd_resnet18_cifar100_fsdp',
}
#: What methods change in the student itself: Mixup or CutMix.
OF_STUDENT = {'model.train_cfg'}
#: What the written classifiers ask their backbone for, and the flag finds by itself.
LEVELS = 'model.student.backbone.out_indices'
#: They change the student's own loss or images.
WITHOUT_DISTILLER = {'label-smoothing', 'mixup', 'cutmix'}


@lru_cache(maxsize=None)  # nobody here changes it
def read(name):
    return load_config(name if '::' in name else str(CONFIGS / f'{name}.py'))


def values(cfg):
    """A config without files' own variables and MMEngine's marks of inheritance."""
    if isinstance(cfg, dict):
        return {
            key: values(value)
            for key, value in cfg.items()
            if key == '_delete_' or not key.startswith('_')
        }
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(values(value) for value in cfg)
    return cfg


def changed_keys(differences):
    return {line.partition(':')[0] for line in differences}


@pytest.mark.parametrize('name', WRITTEN)
def test_the_flag_and_the_config_train_alike(name):
    plain, method, deliberate = WRITTEN[name]
    wrapped = values(wrap(read(plain), method).to_dict())
    written = values(read(name).to_dict())
    differences = find_differences(
        {key: value for key, value in wrapped.items() if key not in ADDED},
        {key: value for key, value in written.items() if key not in VARIABLES},
    )
    assert changed_keys(differences) - {LEVELS} == deliberate, '\n'.join(differences)


def losses_of(cfg):
    torch.manual_seed(0)
    model = build_model(cfg).train()
    torch.manual_seed(1)
    samples = [DataSample().set_gt_label(label) for label in range(4)]
    channels = cfg.model.student.backbone.get('in_channels', 3)
    return model(torch.randn(4, channels, 32, 32), samples, mode='loss')


@pytest.mark.parametrize(
    'name',
    [
        name
        for name, (plain, *_) in WRITTEN.items()
        if '/frskd' in f'/{name}' and ('resnet18' in plain or 'wrn' in plain)
    ],
)
def test_the_levels_that_the_flag_finds_are_those_of_the_config(name):
    plain, method, _ = WRITTEN[name]
    found, written = losses_of(wrap(read(plain), method)), losses_of(read(name))
    assert found == written
    assert found['self_teacher.loss'] > 0


def test_every_distilled_config_is_compared():
    names = [
        str(path.relative_to(CONFIGS))[: -len('.py')]
        for path in CONFIGS.rglob('*.py')
        if '_base_' not in path.parts
    ]
    distilled = {name for name in names if 'distiller' in read(name).model}
    assert distilled == {*WRITTEN} | NOT_A_METHOD


@pytest.mark.parametrize('method', sorted({*method_names('cls')} - WITHOUT_DISTILLER))
def test_the_plain_student_has_the_plain_recipe(method):
    plain = read('resnet18_cifar100')
    distilled = wrap(plain, method)
    differences = find_differences(plain.to_dict(), student_config(distilled).to_dict())
    assert changed_keys(differences) <= OF_STUDENT, '\n'.join(differences)


def numbers_of(path):
    """Return the numbers other than 0 that a base file gives a component's setting."""
    found = set()
    for call in ast.walk(ast.parse(path.read_text())):
        values = {
            keyword.arg: keyword.value
            for keyword in getattr(call, 'keywords', [])
            if isinstance(keyword.value, ast.Constant)
        }
        if 'type' in values:
            component = values.pop('type').value
            found |= {
                (component, key, value.value)
                for key, value in values.items()
                if type(value.value) in (int, float) and value.value
            }
    return found


def test_the_files_of_a_method_write_each_number_once():
    """What several tasks share stands in the file that they inherit."""
    methods = {}
    for path in (CONFIGS / '_base_' / 'methods').glob('*.py'):
        methods.setdefault(path.stem.rpartition('_')[0] or path.stem, []).append(path)
    assert sum(len(paths) > 1 for paths in methods.values()) >= 7
    for method, paths in methods.items():
        task_numbers = [number for path in paths for number in numbers_of(path)]
        assert len(set(task_numbers)) == len(task_numbers), method
