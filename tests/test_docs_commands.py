"""Every command line that the documentation prints."""

import re
import runpy
import shutil
import sys
from functools import lru_cache
from glob import glob
from pathlib import Path

import pytest
from doc_commands import (
    COMMANDS,
    PAGES,
    REPO,
    blocks,
    files,
    lines,
    read,
    replace_option,
    shorten,
    stand_in,
    with_options,
)
from warm_processes import run_python

from frskd_mm.commands.main import main
from frskd_mm.engine import load_config, wrap
from frskd_mm.utils.command import CommandParser
from frskd_mm.utils.environment import EXTRAS, has_host

LANGUAGES = {'bash', 'console', 'text', 'python', 'yaml', 'toml', 'bibtex'}
SHELL = [
    block
    for page in PAGES
    if page.name != 'report.md'
    for block in blocks(page)
    if block.language == 'bash'
]
WITH_COMMANDS = sorted({block.page for block in SHELL})
#: What a comparison wrote is shown as it wrote it.
WRITTEN_BY_TOOLS = 'report.md'
TARGETS = set(re.findall(r'^([a-z-]+):', (REPO / 'Makefile').read_text(), re.MULTILINE))


class Parsed(BaseException):
    """Carries what a command's parser understood."""


def parse(start, arguments, monkeypatch):
    """Let a tool or command read its arguments, and no more."""
    original = CommandParser.parse_args

    def stop(self, *args, **kwargs):
        raise Parsed(original(self, *args, **kwargs))

    monkeypatch.setattr(CommandParser, 'parse_args', stop)
    is_command = start[0] == '-m'
    words = ['frskd', start[-1]] if is_command else start
    monkeypatch.setattr(sys, 'argv', [*words, *arguments])
    with pytest.raises(Parsed) as caught:
        main() if is_command else runpy.run_path(start[0], run_name='__main__')
    monkeypatch.undo()
    return caught.value.args[0]


@lru_cache(maxsize=None)
def wrapped(path, method):
    return wrap(read(path), method)


def configs_of(args):
    """Return the configs of a command that are not made by the one before."""
    named = getattr(args, 'configs', None) or [getattr(args, 'config', None)]
    return [path for path in named if path and not path.startswith('work_dirs')]


def methods_of(args):
    given = getattr(args, 'method', None) or getattr(args, 'methods', None) or ''
    names = given if isinstance(given, str) else ','.join(given)
    return [name for name in names.split(',') if name]


def tool_lines(block):
    """Return tool or command, how Python calls it, and its arguments."""
    for line in lines(block.text):
        if line.tool:
            yield line.tool, line.start, stand_in(line.arguments)


def test_commands_were_found():
    assert len(WITH_COMMANDS) >= 20
    found = [line[0] for block in SHELL for line in tool_lines(block)]
    assert len(found) >= 60
    assert {'train', 'test', 'export_student', 'compare', 'benchmark'} <= set(found)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_every_block_says_what_it_is(page):
    for block in blocks(page):
        if page.name == WRITTEN_BY_TOOLS:
            continue
        place = f'{block.page}:{block.line}'
        assert block.language in LANGUAGES, f'{place}: ```{block.language}'
        commands = re.findall(
            rf'^(?:{"|".join(map(re.escape, COMMANDS))}) .*', block.text, re.MULTILINE
        )
        if block.language in ('text', 'python'):
            commands = [c for c in commands if 'tools/' in c or c.startswith('frskd ')]
            assert not commands, f'{place} has commands: make it ```bash'


@pytest.mark.parametrize('page', WITH_COMMANDS)
def test_commands_are_understood(page, monkeypatch):
    """Each tool takes its arguments; configs, options and methods are there."""
    monkeypatch.chdir(REPO)
    own = files(REPO / page)
    for block in SHELL:
        if block.page != page:
            continue
        for _, start, arguments in tool_lines(block):
            args = parse(start, arguments, monkeypatch)
            monkeypatch.chdir(REPO)
            for path in configs_of(args):
                package = path.partition('::')[0]
                if path in own or (package in EXTRAS and not has_host(package)):
                    continue
                options = getattr(args, 'cfg_options', None)
                if options:
                    load_config(path, options)
                for method in methods_of(args):
                    name = method.partition('@')[0].replace('_', '-')
                    if name not in own and method not in own:
                        wrapped(path, {'ce': 'none'}.get(name, name))
        for line in lines(block.text):
            if line.words[0] == 'make':
                named = [w for w in line.words[1:] if '=' not in w]
                assert named[0] in TARGETS
            if line.words[0] == 'pip':
                for name in re.findall(r'requirements/[\w./-]+', ' '.join(line.words)):
                    assert (REPO / name).is_file()


def in_a_folder(folder):
    """Let the checkout's files be found in a folder of one's own."""
    for path in REPO.iterdir():
        if not path.name.startswith('.') and path.name not in ('build', 'work_dirs'):
            (folder / path.name).symlink_to(path)


def make_checkpoint(tool, arguments, folder):
    """Train what a command expects to lie there, as an earlier page says."""
    if tool not in ('test', 'export_student'):
        return
    config, checkpoint = arguments[:2]
    if (folder / checkpoint).exists():
        return
    work_dir = str(Path(checkpoint).parent)
    assert work_dir.startswith('work_dirs/'), checkpoint
    train = shorten('train', [config, '--work-dir', work_dir])
    run_python(['tools/train.py', *train], folder)


def run_page(page, folder):
    """Run the short forms of a page's commands, one after the other."""
    in_a_folder(folder)
    for name, text in files(REPO / page).items():
        (folder / name).write_text(text)
    done = set()
    for block in SHELL:
        if block.page != page or block.reason:
            continue
        text = re.sub(r'for seed in [\d ]+;', 'for seed in 0;', block.text)
        for line in lines(text):
            tool = line.tool
            if tool is None:
                continue
            arguments = [
                path
                for word in shorten(tool, stand_in(line.arguments))
                for path in (sorted(glob(word, root_dir=folder)) or [word])
            ]
            if (tool, *arguments) in done:
                continue
            done.add((tool, *arguments))
            make_checkpoint(tool, arguments, folder)
            start = line.start
            if line.words[0] == 'torchrun':
                start = ['-m', 'torch.distributed.run', '--nproc_per_node', '2', *start]
            run_python([*start, *arguments], folder)
    return len(done)


RUN = sorted({b.page for b in SHELL if not b.reason and list(tool_lines(b))})


@pytest.mark.slow
@pytest.mark.parametrize('page', RUN)
def test_commands_run_in_short_form(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the page's own files are read
    assert run_page(page, tmp_path)


def test_what_is_not_run_says_why():
    reasons = [b for b in SHELL if b.reason]
    for block in SHELL:
        runnable = any(tool_lines(block))
        assert runnable or block.reason, (
            f'{block.page}:{block.line} runs no tool: write <!-- not run: REASON --> '
            'before it'
        )
    assert all(len(block.reason) > 8 for block in reasons)


def test_short_forms():
    arguments = ['c.py', '--cfg-options', 'a=1', 'b=2', '--resume']
    assert with_options(arguments, ['a=3']) == [
        *arguments[:-1],
        'a=3',
        '--resume',
    ]
    assert replace_option(['--seeds', '0', '1', '--jobs', '2'], '--seeds', ['0']) == (
        ['--jobs', '2', '--seeds', '0']
    )
    (first, second, *_) = lines('for i in 1 2; do\n  python tools/x.py "a b" $i\ndone')
    assert first.words == ('python', 'tools/x.py', 'a b', '1')
    assert second.arguments == ['a b', '2']
    (line,) = lines('torchrun --nproc_per_node 8 -m frskd_mm export A B --launcher x')
    assert (line.tool, line.arguments[0]) == ('export_student', 'A')
    assert line.start == ['-m', 'frskd_mm', 'export']
    one, warm_up = (
        f'configs/{name}.py'
        for name in (
            'digits/wrn10-1_digits',
            'finetune/efficientnet-lite0_cifar100-20-per-class',
        )
    )
    for arguments, epochs in (([one], 1), ([one, '--resume'], 2), ([warm_up], 2)):
        assert f'train_cfg.max_epochs={epochs}' in shorten('train', arguments)
    with pytest.raises(ValueError, match='nonsense'):
        lines('nonsense --now')
    assert shutil.which('bash')
