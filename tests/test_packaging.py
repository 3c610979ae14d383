"""What an installation brings along."""

import re
import shutil
import subprocess
import sys
from email import message_from_string
from zipfile import ZipFile

import pytest
import yaml

from frskd_mm import __version__


@pytest.fixture(scope='module')
def wheel(tmp_path_factory, request):
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
    with ZipFile(path) as archive:
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
