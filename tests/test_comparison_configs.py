"""The written configs are what ``--method`` makes of the plain students'."""

from pathlib import Path

import pytest
from mmengine.config import Config

from frskd_mm.engine import method_names, student_config, wrap
from frskd_mm.lab.compare.grid import find_differences

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
#: Left over from the bases of a written config; the runner does not read them.
VARIABLES = {'distiller', 'student', 'teacher', 'dataset_wrapper'}
#: Added by ``--method``, for whoever runs the config without the tools.
ADDED = {'custom_imports'}
#: The flag leaves the teacher to the user, the config names one.
TEACHER = {'model.distiller.teacher', 'model.distiller.checkpoint'}
DELIBERATE = dict.fromkeys(('kd', 'kd-at', 'kd-fitnet', 'kd-overhaul'), TEACHER)
#: They change the student's own loss or images.
WITHOUT_DISTILLER = {'label-smoothing', 'mixup', 'cutmix'}
#: What methods change in the student itself: its levels, and Mixup or CutMix.
OF_STUDENT = {'model.backbone.out_indices', 'model.train_cfg'}


def written_config(method, student):
    """Return the file of a method: FRSKD's lie beside the plain students'."""
    name = f'{method}_{student}_cifar100.py'
    folders = [CONFIGS, CONFIGS / 'comparison']
    (path,) = [folder / name for folder in folders if (folder / name).is_file()]
    return path


@pytest.mark.parametrize('student', ['resnet18', 'wrn16-2'])
@pytest.mark.parametrize('method', method_names('cls'))
def test_the_flag_and_the_config_train_alike(method, student):
    wrapped = wrap(Config.fromfile(CONFIGS / f'{student}_cifar100.py'), method)
    written = Config.fromfile(written_config(method, student))
    differences = find_differences(
        {key: value for key, value in wrapped.to_dict().items() if key not in ADDED},
        {k: value for k, value in written.to_dict().items() if k not in VARIABLES},
    )
    keys = {line.partition(':')[0] for line in differences}
    assert keys == DELIBERATE.get(method, set()), '\n'.join(differences)


@pytest.mark.parametrize('form', ['flag', 'config'])
@pytest.mark.parametrize('method', sorted({*method_names('cls')} - WITHOUT_DISTILLER))
def test_the_plain_student_has_the_plain_recipe(method, form):
    plain = Config.fromfile(CONFIGS / 'resnet18_cifar100.py')
    if form == 'flag':
        distilled = wrap(plain, method)
    else:
        distilled = Config.fromfile(written_config(method, 'resnet18'))
    differences = find_differences(plain.to_dict(), student_config(distilled).to_dict())
    keys = {line.partition(':')[0] for line in differences}
    assert keys <= OF_STUDENT, '\n'.join(differences)


@pytest.mark.parametrize('student', ['resnet18', 'wrn16-2'])
def test_every_comparison_is_a_method(student):
    ending = f'_{student}_cifar100.py'
    names = [
        path.name[: -len(ending)]
        for folder in (CONFIGS, CONFIGS / 'comparison')
        for path in folder.glob(f'?*{ending}')
    ]
    assert sorted(names) == method_names('cls')
