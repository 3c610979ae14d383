"""The walkthrough in docs/methods/adding.md, run as it is written."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from comparators import distilled, pair_batch

from frskd_mm.engine import load_config, wrap
from frskd_mm.lab.compare import plan_grid
from frskd_mm.lab.trial import random_batch
from frskd_mm.utils.model import build_model

REPO = Path(__file__).resolve().parents[1]
PAGE = (REPO / 'docs' / 'methods' / 'adding.md').read_text()
DIGITS = str(REPO / 'configs' / 'digits' / 'wrn10-1_digits.py')
#: What makes the commands short: one epoch of a few images.
FEWER = (
    '--cfg-options train_cfg.max_epochs=1 train_dataloader.dataset.num_per_class=4 '
    'val_dataloader.dataset.num_per_class=4 test_dataloader.dataset.num_per_class=4 '
    'default_hooks.checkpoint.interval=1 default_hooks.logger.interval=1'
)


def blocks(language):
    return re.findall(rf'^```{language}\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE)


def commands():
    """Return the page's command lines by the tool that they run."""
    (block,) = blocks('bash')
    lines = block.replace('\\\n', '').splitlines()
    return {Path(shlex.split(line)[1]).stem: line for line in lines[1:]}, lines[0]


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Write the page's files to a folder outside the repository."""
    folder = tmp_path_factory.mktemp('project')
    for block in blocks('python'):
        name = re.match(r'# (\S+\.py)\n', block)[1]
        (folder / name).write_text(block)
    assert {path.name for path in folder.iterdir()} == {
        'my_methods.py',
        'class-wise.py',
        'my_losses.py',
        'frskd-cosine.py',
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder


def run(project, *lines):
    result = subprocess.run(
        ['bash', '-ec', '\n'.join(lines)],
        cwd=project,
        env={
            **os.environ,
            'FRSKD_MM': str(REPO),
            'PYTHONPATH': str(REPO),
            'OMP_NUM_THREADS': '1',
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_it_is_the_packages_own_cs_kd(project):
    load_config(str(project / 'class-wise.py'))  # imports the method
    losses = []
    for name in ('my_methods.ClassWise', 'frskd_mm.CSKD'):
        torch.manual_seed(0)
        losses.append(distilled(dict(type=name)).loss(**pair_batch('same_class')))
    own, packages = losses
    assert own['student.loss'] == packages['student.loss']
    assert own['loss_class_wise'] == packages['loss_cs_kd'] > 0


def test_the_method_file_changes_what_it_names_alone(project):
    plain = load_config(DIGITS)
    plain.custom_imports = dict(imports='torch', allow_failed_imports=True)
    cfg = wrap(plain, str(project / 'class-wise.py'))
    assert cfg.model.distiller.type == 'my_methods.ClassWise'
    assert cfg.model.student == plain.model
    assert cfg.train_dataloader.dataset.dataset == plain.train_dataloader.dataset
    assert cfg.custom_imports == dict(
        imports=['torch', 'my_methods', 'frskd_mm'], allow_failed_imports=True
    )
    assert cfg.filename == 'class-wise_wrn10-1_digits.py'
    assert cfg.optim_wrapper == plain.optim_wrapper


def test_a_missing_method_file_is_named(project):
    wrong = str(project / 'class_wise.py')
    with pytest.raises(FileNotFoundError, match=r'class_wise\.py.*class-wise\.py'):
        wrap(load_config(DIGITS), wrong)


def test_the_grid_takes_it(project, tmp_path):
    method = str(project / 'class-wise.py')
    runs = plan_grid(DIGITS, ['ce', method, method], [0], str(tmp_path))
    assert [run.method for run in runs] == ['none', 'class-wise']
    assert (tmp_path / 'class-wise' / 'seed0' / 'config.py').is_file()
    other = tmp_path / 'class-wise.py'
    other.write_text((project / 'class-wise.py').read_text())
    with pytest.raises(ValueError, match='have one name: rename a file'):
        plan_grid(DIGITS, [method, str(other)], [0], str(tmp_path))


def test_train_and_export_as_written(project):
    tools, export = commands()
    shorter = tools['export_student'].replace('epoch_25', 'epoch_1')
    run(project, export, f'{tools["train"]} {FEWER}', shorter)
    log = next((project / 'work_dirs' / 'class-wise').glob('*/vis_data/scalars.json'))
    assert '"loss_class_wise"' in log.read_text()
    weights = torch.load(project / 'student.pth')['state_dict']
    assert not [name for name in weights if name.startswith('distiller.')]


@pytest.mark.slow
def test_compare_as_written(project):
    tools, export = commands()
    out = run(project, export, f'{tools["compare"]} {FEWER}')
    assert re.search(r'^\| class-wise +\| 3 ', out, re.MULTILINE)


def test_a_feature_loss_of_one_s_own_is_a_term(project):
    cfg = wrap(load_config(DIGITS), str(project / 'frskd-cosine.py'))
    model = build_model(cfg).train()
    batch = model.data_preprocessor(random_batch(cfg, 4, (32, 32), 10), True)
    losses = model(**batch, mode='loss')
    assert losses['loss_cosine'] > 0
    losses['loss_cosine'].backward()
    reached = {
        name.split('.')[0]
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    assert reached == {'backbone'}
