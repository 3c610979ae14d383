"""tools/env.sh, which makes the environment for the Makefile."""

import os
import subprocess
import sys
import venv

import pytest


def env_sh(repo, *command, **settings):
    """Run tools/env.sh with these settings alone."""
    names = ('STACK', 'OPERATORS', 'PYTHON', 'FRSKD_VENV', 'TORCH_INDEX')
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        ['bash', str(repo / 'tools/env.sh'), *command],
        env={**kept, 'PYTHON': sys.executable, **settings},
        capture_output=True,
        text=True,
    )


def test_an_unknown_stack_is_refused_by_name(repo):
    result = env_sh(repo, STACK='new')
    assert result.returncode == 1
    assert 'STACK=new is neither maintained nor classic' in result.stderr


def test_an_interpreter_that_is_not_there_is_named(repo, tmp_path):
    result = env_sh(repo, PYTHON='no-such-python', FRSKD_VENV=str(tmp_path / 'venv'))
    assert result.returncode == 1
    assert 'no-such-python is not there' in result.stderr


@pytest.mark.parametrize(
    ('version', 'settings', 'taken'),
    [
        ('3.12.1', dict(OPERATORS='0'), True),
        ('3.12.1', dict(OPERATORS='0', STACK='classic'), False),
        ('3.12.1', {}, False),
        ('3.11.2', {}, True),
        ('3.10.13', dict(OPERATORS='0'), False),
    ],
)
def test_versions_of_python(repo, tmp_path, version, settings, taken):
    interpreter = tmp_path / 'python'
    interpreter.write_text(f'#!/bin/sh\necho {version}\n')
    interpreter.chmod(0o755)
    # Whoever gets as far as this folder has taken the interpreter.
    result = env_sh(repo, PYTHON=str(interpreter), FRSKD_VENV=str(tmp_path), **settings)
    refused = f'Python 3.11 is needed; {interpreter} is {version}'
    assert ('is not a Python environment' if taken else refused) in result.stderr


def test_an_environment_that_was_stopped_or_moved_is_made_anew(repo, tmp_path):
    """As far as it can be seen without installing: the folder is made again."""
    venv.create(tmp_path / 'old', with_pip=True)
    (tmp_path / 'old').rename(tmp_path / 'moved')
    venv.create(tmp_path / 'stopped', with_pip=False)
    venv.create(tmp_path / 'whole', with_pip=True)
    for name, is_whole in (('moved', False), ('stopped', False), ('whole', True)):
        result = env_sh(
            repo,
            FRSKD_VENV=str(tmp_path / name),
            PIP_INDEX_URL='http://127.0.0.1:9/simple',  # nobody answers
            PIP_RETRIES='0',
            PIP_NO_INDEX='1',
        )
        assert result.returncode == 1
        assert ('Making ' in result.stderr) != is_whole, (name, result.stderr)


def test_a_folder_that_is_no_environment_is_left_alone(repo, tmp_path):
    (tmp_path / 'thesis.tex').touch()
    for operators in ('0', '1'):
        result = env_sh(repo, FRSKD_VENV=str(tmp_path), OPERATORS=operators)
        assert result.returncode == 1
        assert 'is not a Python environment' in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


@pytest.fixture
def made(repo, tmp_path):
    """Return a function that says what an environment was made for."""

    def made(operators, stack='maintained'):
        folder = tmp_path / 'venv'
        (folder / 'bin').mkdir(parents=True, exist_ok=True)
        if not (folder / 'bin/python').exists():
            (folder / 'bin/python').symlink_to(sys.executable)
            (folder / 'bin/pip').write_text(f'#!{folder}/bin/python\n')
        version = '.'.join(map(str, sys.version_info[:3]))
        requirements = subprocess.run(
            ['bash', '-c', 'cat requirements/*.txt | cksum'],
            cwd=repo,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        text = f'{stack}, operators: {operators}\n{version}\n{requirements}'
        (folder / 'frskd_mm.state').write_text(text)
        (folder / 'frskd_mm.checkout').write_text(f'{repo}\n')
        return str(folder)

    return made


@pytest.mark.parametrize('stack', ['maintained', 'classic'])
@pytest.mark.parametrize(('has', 'wants'), [(0, 0), (1, 0), (1, 1)])
def test_an_environment_with_operators_serves_without_them_too(
    repo, made, stack, has, wants
):
    result = env_sh(
        repo,
        'printenv',
        'VIRTUAL_ENV',
        FRSKD_VENV=made(has, stack),
        OPERATORS=str(wants),
        STACK=stack,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().endswith('/venv')
    assert result.stderr == ''  # nothing was installed
