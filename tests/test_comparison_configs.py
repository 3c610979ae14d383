"""The comparison configs are what ``--method`` makes of the plain students'."""

from pathlib import Path

import pytest
from mmengine.config import Config

from frskd_mm.engine import wrap

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
METHODS = (
    'consistency',
    'cs-kd',
    'ddgsd',
    'dlb',
    'frskd-cutmix',
    'frskd-mixup',
    'frskd-sla',
    'ps-kd',
    'sla',
    'tf-kd',
)


@pytest.mark.parametrize('student', ['resnet18', 'wrn16-2'])
@pytest.mark.parametrize('method', METHODS)
def test_the_flag_and_the_config_train_alike(method, student):
    wrapped = wrap(Config.fromfile(CONFIGS / f'{student}_cifar100.py'), method)
    written = Config.fromfile(CONFIGS / f'comparison/{method}_{student}_cifar100.py')
    for key in ('model', 'train_dataloader', 'optim_wrapper', 'param_scheduler'):
        assert wrapped[key] == written[key], key
