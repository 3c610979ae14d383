"""What an installation brings along."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from email import message_from_string
from zipfile import ZipFile

import pytest
import yaml

from frskd_mm import __version__


@pytest.fixture(scope='module')
def wheel_path(tmp_path_factory, request):
    """A wheel of the checkout, built from a copy of it."""
    repo = request.config.rootpath
    folder = tmp_path_factory.mktemp('wheel')
    for name in ('configs', 'frskd_mm', 'requirements', 'tools'):
        shutil.copytree(
            repo / name,
            folder / name,
            symlinks=True,
            ignore=shutil.ignore_patterns('__pycache__'),
        )
    for name in ('MANIFEST.in', 'README.md', 'model-index.yml', 'setup.py'):
        shutil.copy(repo / name, folder)
    command = [sys.executable, '-m', 'pip', 'wheel', '--no-deps', '--no-index']
    command += ['--no-build-isolation', '--wheel-dir', str(folder), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = folder.glob('*.whl')
    return path


@pytest.fixture(scope='module')
def wheel(wheel_path):
    with ZipFile(wheel_path) as archive:
        yield archive


def test_the_wheel_holds_every_module_and_config(wheel, repo):
    names = set(wheel.namelist())
    for path in repo.glob('frskd_mm/**/*.py'):
        assert str(path.relative_to(repo)) in names
    configs = [*repo.glob('configs/**/*.py'), *repo.glob('configs/**/*.yml')]
    assert configs
    for path in configs:
        assert f'frskd_mm/.mim/{path.relative_to(repo)}' in names
    assert 'frskd_mm/.mim/model-index.yml' in names
    assert not any(name.startswith(('tests', 'tools', 'configs')) for name in names)


def test_the_wheel_has_the_command_and_the_doors_of_mim(wheel, repo):
    names = set(wheel.namelist())
    (entry_points,) = [name for name in names if name.endswith('entry_points.txt')]
    lines = wheel.read(entry_points).decode().split('\n')
    assert 'frskd = frskd_mm.commands.main:main' in lines
    doors = {path.name for path in repo.glob('tools/*.py')} - {'check_models.py'}
    assert {'train.py', 'test.py', 'export_student.py', 'demo.py'} <= doors
    found = {name.rpartition('/')[2] for name in names if '/.mim/tools/' in name}
    assert found == doors


def test_the_wheel_requires_nothing_of_openmmlab_by_itself(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith('METADATA')]
    metadata = message_from_string(wheel.read(name).decode())
    assert metadata['Version'] == __version__
    requirements = metadata.get_all('Requires-Dist')
    assert any('onedl-mmcv==' in line for line in requirements)
    assert all('extra ==' in line for line in requirements)


def test_the_model_index_can_be_read_as_mmengine_does(repo):
    for path in yaml.safe_load((repo / 'model-index.yml').read_text())['Import']:
        metafile = yaml.safe_load((repo / path).read_text())
        for model in metafile['Models']:
            assert (repo / model['Config']).is_file()


@pytest.mark.parametrize(
    ('constraints', 'names'),
    [
        ('constraints', ('build', 'demo', 'lint', 'maintained', 'pretrained', 'test')),
        (
            'classic-constraints',
            ('classic-build', 'demo', 'lint', 'classic', 'pretrained', 'classic-test'),
        ),
    ],
)
def test_the_constraints_repeat_the_pins(repo, constraints, names):
    lines = (repo / f'requirements/{constraints}.txt').read_text().splitlines()
    for name in names:
        text = (repo / f'requirements/{name}.txt').read_text()
        for pin in re.findall(r'^\S+==\S+', text, flags=re.MULTILINE):
            if pin.partition('==')[0] not in ('pip', 'setuptools', 'wheel'):
                assert pin.replace('pre-commit', 'pre_commit') in lines


def test_the_citation_has_the_version_and_the_paper(repo):
    citation = yaml.safe_load((repo / 'CITATION.cff').read_text())
    assert citation['version'] == __version__
    assert citation['preferred-citation']['title'].startswith('Refine Myself by Teach')
    assert citation['preferred-citation']['year'] == 2021


def test_the_newest_section_of_the_changelog_is_the_versions(repo):
    sections = re.findall(r'^## (.*)$', (repo / 'CHANGELOG.md').read_text(), re.M)
    newest = next(s for s in sections if not s.startswith('Unreleased'))
    assert re.fullmatch(rf'{re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)', newest)


@pytest.fixture(scope='module')
def installed(wheel_path, tmp_path_factory):
    """Programs of an environment that has the wheel, and sees the libraries here."""
    folder = tmp_path_factory.mktemp('installed')
    environment = folder / 'venv'
    command = [sys.executable, '-m', 'venv', '--without-pip', str(environment)]
    subprocess.run(command, check=True)
    python = environment / 'bin' / 'python'
    command = [sys.executable, '-m', 'pip', '--python', str(python), 'install']
    subprocess.run(
        [*command, '--no-deps', '--no-index', '-q', str(wheel_path)], check=True
    )
    (own,) = environment.glob('lib/*/site-packages')
    # A path in a .pth file comes last, and the .pth files in that folder, which let the
    # checkout be imported, are not read.
    (own / 'libraries.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')
    return environment / 'bin'


#: A few images, one epoch.
SMALL = {
    'cls': dict(num_per_class=2),
    'seg': dict(num_scenes=4),
    'det': dict(num_scenes=4),
}
CONFIGS = {
    'cls': 'frskd_mm::digits/wrn10-1_digits.py',
    'seg': 'frskd_mm::digits/fcn_r18-c16_digit-scenes.py',
    'det': 'frskd_mm::digits/retinanet_r18-c16_digit-scenes.py',
}


def small_options(task):
    options = dict([('train_cfg.max_epochs', 1), ('train_cfg.val_interval', 1)])
    options['train_dataloader.batch_size'] = 4
    options['default_hooks.checkpoint.interval'] = 1
    for loader in ('train', 'val', 'test'):
        for key, value in SMALL[task].items():
            options[f'{loader}_dataloader.dataset.{key}'] = value
    return ['--cfg-options', *(f'{key}={value}' for key, value in options.items())]


@pytest.mark.slow
@pytest.mark.parametrize('task', CONFIGS)
def test_an_installed_wheel_runs_every_command(task, installed, tmp_path):
    plain, options = CONFIGS[task], small_options(task)
    environment = {k: v for k, v in os.environ.items() if not k.startswith('PYTHON')}

    def frskd(*arguments):
        done = subprocess.run(
            [installed / 'frskd', *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{arguments}:\n{done.stdout}{done.stderr}'
        assert '\x1b' not in done.stdout  # no bars outside terminals
        return done.stdout

    where = subprocess.run(
        [installed / 'python', '-c', 'import frskd_mm; print(frskd_mm.__file__)'],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert where.stdout.startswith(str(installed.parent))

    frskd('train', plain, '--method', 'frskd', '--work-dir', 'run', *options)
    (config,) = [str(path) for path in tmp_path.glob('run/frskd_*.py')]
    checkpoint = 'run/epoch_1.pth'
    trained = frskd('test', config, checkpoint, '--work-dir', 'test')
    frskd('export', config, checkpoint, 'student.pth')
    exported = frskd('test', 'student.py', 'student.pth', '--work-dir', 'test')
    metrics = [
        [line for line in out.splitlines() if re.match(r'\S+: [\d.]+$', line)]
        for out in (trained, exported)
    ]
    assert metrics[0] == metrics[1] != []
    frskd('visualize', config, checkpoint, '--indices', '0', '--out', 'inside')
    assert (tmp_path / 'inside/test_0.png').stat().st_size > 10_000
    for arguments in ((config, checkpoint), ('student.py', 'student.pth')):
        frskd('predict', *arguments, 'inside/test_0.png', '--out', 'predictions')
        assert (tmp_path / 'predictions/predictions.json').is_file()
    described = frskd('describe', plain, '--method', 'frskd')
    assert 'loss_kd' in described
    measured = frskd(
        'benchmark', plain, '--method', 'frskd', '--batch-size', '2', '--steps', '1'
    )
    assert 'frskd_' in measured
    frskd(
        *('compare', '--config', plain, '--methods', 'ce,frskd', '--seeds', '0'),
        *('--out', 'compared', *options),
    )
    assert (tmp_path / 'compared/report.html').is_file()
    assert (
        f'frskd compare --config {plain}'
        in (tmp_path / 'compared/report.md').read_text()
    )
