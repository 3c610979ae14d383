"""``frskd COMMAND``: every command, under each name that it has."""

import re
import runpy
import subprocess
import sys
from importlib import import_module

import pytest

from frskd_mm import __version__
from frskd_mm.commands.main import COMMANDS, main
from frskd_mm.utils.command import command_line

#: The doors whose name is another.
DOORS = {'export': 'export_student'}
PLAIN = 'configs/digits/wrn10-1_digits.py'


def call(monkeypatch, capsys, *arguments):
    """Return the exit code and what was printed."""
    monkeypatch.setattr('sys.argv', ['/somewhere/bin/frskd', *arguments])
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = stop.code or 0
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_every_command_is_a_module_and_the_other_way_round(repo):
    files = {path.stem for path in repo.glob('frskd_mm/commands/*.py')}
    assert files - {'__init__', 'main'} == set(COMMANDS)
    for name in COMMANDS:
        assert callable(import_module(f'frskd_mm.commands.{name}').main)


@pytest.mark.parametrize('name', COMMANDS)
def test_command_and_tool_have_the_same_help(name, monkeypatch, capsys, repo):
    code, shown, _ = call(monkeypatch, capsys, name, '--help')
    assert code == 0
    assert shown.startswith(f'usage: frskd {name} ')
    assert f'``frskd {name} ' in shown
    tool = f'tools/{DOORS.get(name, name)}.py'
    monkeypatch.chdir(repo)
    monkeypatch.setattr('sys.argv', [tool, '--help'])
    with pytest.raises(SystemExit):
        runpy.run_path(tool, run_name='__main__')
    through_tool = capsys.readouterr().out
    assert f'``python {tool} ' in through_tool
    options = [re.findall(r'--[a-z-]+', text) for text in (shown, through_tool)]
    assert options[0] == options[1] != []


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['trian'], "no command 'trian'. Did you mean train?"),
        (['deploy'], 'There are: train, test, export'),
        (['train', 'nowhere.py'], 'frskd train: error: There is no config nowhere.py'),
        (['train', PLAIN, '--method', 'frskdd'], 'Did you mean frskd?'),
        (['train', PLAIN, '--nosuch'], 'unrecognized arguments: --nosuch'),
        (['test', PLAIN], 'required: checkpoint'),
        (['export', PLAIN, 'no.pth', 'out.pth'], 'There is no checkpoint no.pth'),
    ],
    ids=lambda case: case[-1],
)
def test_mistakes_end_with_2(arguments, message, monkeypatch, capsys, repo):
    monkeypatch.chdir(repo)
    code, out, err = call(monkeypatch, capsys, *arguments)
    assert code == 2
    assert message in err
    assert 'Traceback' not in out + err


def test_without_a_command_all_are_listed(monkeypatch, capsys):
    code, listed, _ = call(monkeypatch, capsys)
    assert code == 2
    for name, text in COMMANDS.items():
        assert re.search(rf'^  {name} +{text}$', listed, re.MULTILINE)
    assert call(monkeypatch, capsys, '--help') == (0, listed, '')
    shown = call(monkeypatch, capsys, '--version')
    assert shown == (0, f'frskd_mm {__version__}\n', '')


def test_a_report_names_the_command_as_it_was_typed(monkeypatch):
    monkeypatch.setattr('sys.argv', ['tools/compare.py', '--out', 'a b'])
    assert command_line() == "python tools/compare.py --out 'a b'"
    monkeypatch.setattr('sys.argv', ['frskd compare', '--out', 'a b'])
    assert command_line() == "frskd compare --out 'a b'"


def test_python_m_is_the_command_too(repo):
    """As torchrun -m starts it."""
    command = [sys.executable, '-m', 'frskd_mm', 'export', '--help']
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: frskd export ')


def test_mim_finds_the_tools(repo, monkeypatch, capsys):
    """It looks for PACKAGE/.mim/tools/COMMAND.py."""
    tool = str(repo / 'frskd_mm/.mim/tools/train.py')
    monkeypatch.chdir(repo)
    monkeypatch.setattr('sys.argv', [tool, PLAIN, '--method', 'x'])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(tool, run_name='__main__')
    assert stop.value.code == 2
    assert 'train.py: error: There is no method' in capsys.readouterr().err
