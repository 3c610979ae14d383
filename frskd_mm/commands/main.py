"""``frskd COMMAND ...``: hands the arguments to the command's module."""

import difflib
import sys
from importlib import import_module
from typing import Dict

from frskd_mm.utils.command import NAME, run_command
from frskd_mm.version import __version__

#: What ``frskd`` lists; each is a module beside this one.
COMMANDS: Dict[str, str] = {
    'train': 'train a config, with a method of your choice',
    'test': 'evaluate a checkpoint',
    'export': "write a training checkpoint's student for its host library",
    'compare': 'train several methods with several seeds, and report',
    'benchmark': 'measure what a training step costs',
    'visualize': 'draw predictions and attention of student and self-teacher',
    'describe': 'show levels, parts, terms and cost of a model',
    'predict': 'predict images and folders with the student',
}


def usage() -> str:
    """Return what ``frskd`` prints without a command."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name.ljust(width)}  {text}' for name, text in COMMANDS.items()]
    return '\n'.join(
        [
            f'usage: {NAME} COMMAND ...',
            '',
            *lines,
            '',
            f'{NAME} COMMAND --help lists the options of one.',
        ]
    )


def main() -> None:
    """Run the command that the first argument names."""
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name in ('', '-h', '--help'):
        print(usage())
        sys.exit(0 if name else 2)
    if name == '--version':
        print(f'frskd_mm {__version__}')
        return
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f' Did you mean {similar[0]}?' if similar else ''
        print(
            f'{NAME}: error: There is no command {name!r}.{hint} There are: '
            f'{", ".join(COMMANDS)}.',
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv = [f'{NAME} {name}', *sys.argv[2:]]
    run_command(import_module(f'{__package__}.{name}').main)
