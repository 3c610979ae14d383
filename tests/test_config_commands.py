"""Commands that stand for config files, in the README of the configs and the log."""

import argparse
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest
from mmengine.config import DictAction
from mmengine.registry import DefaultScope

from frskd_mm.engine import load_config, method_names, wrap
from frskd_mm.models import Distilled
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[1]
README = (REPO / 'configs/README.md').read_text().split('## Everything else')[1]
(TEACHER,) = re.findall(r'^TEACHER="(.+?)"', README, re.DOTALL | re.MULTILINE)
COMMANDS = [
    command.replace('$TEACHER', TEACHER)
    for command in re.findall(r'^\|.*\| `(\S+ --method .*)` \|$', README, re.MULTILINE)
]
RESNET, WRN = (
    'configs/resnet18_cifar100.py',
    'configs/mmpretrain/wrn16-2_1xb128_cifar100.py',
)
#: They change the student's own loss or images.
WITHOUT_DISTILLER = {'label-smoothing', 'mixup', 'cutmix'}
CLS, SEG = (
    'byot consistency cs-kd cutmix ddgsd dlb frskd-cutmix frskd-fitnet frskd-mixup '
    'frskd-overhaul frskd-sla kd kd-at kd-fitnet kd-overhaul label-smoothing mixup one '
    'ps-kd sad sla tf-kd'.split(),
    '4xb4-20k_voc12aug-512x512 4xb2-40k_cityscapes-512x1024 '
    '4xb4-80k_ade20k-512x512'.split(),
)
#: The configs of before that are no files any more, or have another name.
GONE = [
    f'configs/{path}.py'
    for path in (
        *(f'comparison/{m}_{s}_cifar100' for m in CLS for s in ('resnet18', 'wrn16-2')),
        'comparison/resnet34_cifar100',
        'comparison/wrn40-2_cifar100',
        'frskd-bifpn_resnet18_cifar100',
        'frskd-bifpn_wrn16-2_cifar100',
        'frskd-f_resnet18_cifar100',
        'frskd-f_wrn16-2_cifar100',
        'frskd_wrn16-2_cifar100',
        'wrn16-2_cifar100',
        'mmdet/frskd_faster-rcnn_r50_fpn_1x_coco',
        'mmdet/frskd_faster-rcnn_r50_fpn_1x_voc0712',
        'mmdet/frskd_fcos_r50-caffe_fpn_gn-head_1x_coco',
        'mmdet/frskd_gfl_r50_fpn_1x_coco',
        'mmdet/frskd_mask-rcnn_r50_fpn_1x_coco',
        'mmdet/frskd_retinanet_r18-narrow_bccd',
        'mmdet/frskd_retinanet_r50_fpn_1x_coco',
        'mmdet/frskd_retinanet_r50_fpn_1x_voc0712',
        'mmdet/retinanet_r18-narrow_bccd',
        'mmseg/fcn_r18-c16_camvid-240x180',
        'mmseg/frskd_fcn_r18-c16_camvid-240x180',
        'mmseg/frskd_segformer_mit-b0_8xb1-160k_cityscapes-1024x1024',
        *(f'mmseg/frskd_{m}_r50-d8_{s}' for m in ('fcn', 'deeplabv3plus') for s in SEG),
        *(f'mmseg/frskd_pspnet_r50-d8_{s}' for s in SEG[1:]),
    )
]
#: Words of the log's table that stand for part of a name.
WORDS = {
    'METHOD': r'(?!frskd_wrn|wrn)[a-z][a-z-]*',
    'ARCH': r'[a-z0-9-]+(?:_r50[a-z0-9_-]*)?',
    'SCHEDULE': r'[a-z0-9-]+',
    'DATA': r'[a-z0-9-]+',
}


#: Each file is read once; nobody here changes what it gives.
read = lru_cache(maxsize=None)(load_config)


def wrapped(command):
    """Return what ``python tools/train.py`` would train for a command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--method', default='none')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args(shlex.split(command))
    options = args.cfg_options
    plain = load_config(args.config, options) if options else read(args.config)
    return wrap(plain, args.method)


def method_of(command):
    return command.partition('--method ')[2].split()[0]


@pytest.mark.parametrize('command', COMMANDS, ids=lambda c: c.split(' --cfg')[0])
def test_command_builds(command, monkeypatch):
    monkeypatch.chdir(REPO)
    commands = [command]
    if command.startswith(RESNET):
        commands.append(command.replace(RESNET, WRN))
    for line in commands:
        cfg = wrapped(line)
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            model = build_model(cfg)
        is_distilled = method_of(command) not in WITHOUT_DISTILLER
        assert isinstance(model, Distilled) is is_distilled


def test_commands_were_found():
    assert len(COMMANDS) >= 40
    assert len(set(COMMANDS)) == len(COMMANDS)
    classification = [c for c in COMMANDS if c.startswith('configs/')]
    assert sorted(map(method_of, classification)) == method_names('cls')


def test_a_command_has_the_settings_of_the_file_that_it_replaces(monkeypatch):
    monkeypatch.chdir(REPO)
    (segformer,) = [c for c in COMMANDS if 'segformer' in c]
    cfg = wrapped(segformer)
    assert cfg.model.distiller.neck.width == 2
    keys = cfg.optim_wrapper.paramwise_cfg.custom_keys
    assert keys.distiller.lr_mult == keys.head.lr_mult == 10.0
    (depth,) = re.findall(r'`(\S+ --cfg-options model.backbone[^`]+)`', README)
    teacher = wrapped(depth.replace('\n', ' '))
    assert teacher.model.backbone.depth == 34
    assert [*teacher.model.backbone.out_indices] == [0, 1, 2, 3]


def replacements():
    """Return the rows of the log's table: regular expressions, and what is now."""
    text = (REPO / 'CHANGELOG.md').read_text()
    rows = re.findall(r'^  \| (`configs/.*`) \| (.*) \|$', text, re.MULTILINE)
    found = []
    for old, new in rows:
        for name in re.findall(r'`(\S+)`', old):
            pattern = re.escape(name)
            for word, regex in WORDS.items():
                pattern = pattern.replace(word, f'(?P<{word}>{regex})')
            found.append((re.compile(pattern), new))
    return found


@pytest.mark.parametrize('path', GONE)
def test_the_log_says_what_replaces_a_config(path):
    assert not (REPO / path).exists()
    answers = []
    for pattern, new in replacements():
        match = pattern.fullmatch(path)
        if match:
            words = match.groupdict()
            for word, value in words.items():
                new = new.replace(word, value)
            answers.append(new)
    assert answers
    for answer in answers:
        for method in re.findall(r'--method ([a-z-]+)', answer):
            assert method in method_names('cls')
        for file in re.findall(r'(?<![:\w/])configs/\S+?\.py', answer):
            assert (REPO / file).is_file()
        for file in re.findall(r'mm(?:seg|det)::[a-zA-Z_0-9]+/\S+\.py', answer):
            if 'FOLDER' not in file:
                assert read(file).model


@pytest.mark.parametrize(
    ('task', 'students'), [('seg', 'segmentors'), ('det', 'detectors')]
)
def test_the_readme_names_the_dense_methods(task, students):
    (names,) = re.findall(
        r'^For segmentors and detectors (.+?) take', README, re.MULTILINE | re.DOTALL
    )
    (line,) = re.findall(rf'^(.*`) for {students}', README, re.MULTILINE)
    own = line.split('so do ')[-1]
    assert sorted(['frskd', *re.findall('`(.+?)`', names + own)]) == method_names(task)
