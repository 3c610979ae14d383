"""The command lines that the documentation prints, and their short forms.

A block of a page is a bash script. It is run with a function in place of each command
that notes its arguments: so loops, variables and quotes mean what they mean to a
reader. ``<!-- not run: REASON -->`` before a block says why its short form is not run.
"""

import os
import re
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

from mmengine.config import Config

from frskd_mm.engine import load_config

REPO = Path(__file__).resolve().parents[1]
PAGES = [
    *REPO.glob('*.md'),
    REPO / 'configs/README.md',
    *sorted((REPO / 'docs').rglob('*.md')),
]
#: What the pages call; every command that a block may contain.
COMMANDS = (
    'python python3.11 torchrun srun pip make frskd mim tensorboard bash git apt '
    'source . export'
).split()
#: The tools whose command has another name.
DOORS = {'export': 'export_student'}
BLOCK = re.compile(
    r'(?:<!-- not run: (?P<reason>[^>]+?) -->\n+)?'
    r'^(?P<indent> *)```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^(?P=indent)```',
    re.DOTALL | re.MULTILINE,
)
#: Words of the pages that stand for what a reader has.
STAND_INS = {
    'CONFIG': 'configs/digits/wrn10-1_digits.py',
    'UPSTREAM': 'configs/digits/wrn10-1_digits.py',
    'my_config.py': 'configs/digits/wrn10-1_digits.py',
    'my_classifier.py': 'configs/digits/wrn10-1_digits.py',
    'my_segmentor.py': 'configs/digits/fcn_r18-c16_digit-scenes.py',
    'NAME': 'frskd',
    'METHOD': 'frskd',
    'CHECKPOINT': 'work_dirs/frskd_resnet18_cifar100/epoch_200.pth',
}
#: One function a command: it appends its words to the log, ended by zero bytes.
NOTE = '{name}() {{ printf "%s\\0" {name} "$@" >>"$LOG"; printf "\\1\\0" >>"$LOG"; }}'


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str
    reason: Optional[str]


class Line(NamedTuple):
    """A command with its arguments, as bash hands them over."""

    words: Tuple[str, ...]

    @property
    def place(self) -> Optional[int]:
        """Where the tool or the command of ``frskd`` is named, if anywhere."""
        for place, word in enumerate(self.words):
            if re.search(r'(^|/)tools/\w+\.py$', word):
                return place
            before = self.words[:place]
            if before == ('frskd',) or before[-2:] == ('-m', 'frskd_mm'):
                return place
            if word == '--method':
                break
        return None

    @property
    def tool(self) -> Optional[str]:
        """Name of the script in ``tools``, or of the command of ``frskd``."""
        if self.place is None:
            return None
        name = Path(self.words[self.place]).stem
        return DOORS.get(name, name)

    @property
    def start(self) -> List[str]:
        """What Python is called with for it, in this checkout."""
        word = self.words[self.place or 0]
        return [f'tools/{self.tool}.py'] if '/' in word else ['-m', 'frskd_mm', word]

    @property
    def arguments(self) -> List[str]:
        """What the tool or command gets."""
        return list(self.words[(self.place or 0) + 1 :])


def blocks(page: Path) -> List[Block]:
    """Return a page's fenced blocks."""
    text = page.read_text(encoding='utf-8')
    return [
        Block(
            str(page.relative_to(REPO)),
            text[: match.start('text')].count('\n'),
            match['language'],
            re.sub(rf'^{match["indent"]}', '', match['text'], flags=re.MULTILINE),
            match['reason'],
        )
        for match in BLOCK.finditer(text)
    ]


def files(page: Path) -> Dict[str, str]:
    """Return the files that a page shows whole: their first line is ``# NAME.py``."""
    found = {}
    for block in blocks(page):
        name = re.match(r'# ([\w-]+\.py)\n', block.text)
        if block.language == 'python' and name:
            found[name[1]] = block.text
    return found


@lru_cache(maxsize=None)
def lines(text: str) -> Tuple[Line, ...]:
    """Run a block with notes in place of its commands, and return these.

    Raises:
        ValueError: If bash cannot read it, or it calls something else.
    """
    read_end, write_end = os.pipe()
    script = [f'LOG=/dev/fd/{write_end}', 'PATH=/nowhere']
    script += [NOTE.format(name=name) for name in COMMANDS if name != 'export']
    result = subprocess.run(
        ['bash', '-e', '-c', '\n'.join([*script, text])],
        capture_output=True,
        text=True,
        pass_fds=[write_end],
        cwd=REPO,
        env={**os.environ, 'FRSKD_MM': '.'},
    )
    os.close(write_end)
    with os.fdopen(read_end, 'rb') as log:
        noted = log.read().decode()
    if result.returncode:
        raise ValueError(f'bash says {result.stderr.strip()} of:\n{text}')
    return tuple(
        Line(tuple(words.split('\0')[:-1])) for words in noted.split('\1\0') if words
    )


@lru_cache(maxsize=None)
def read(path: str) -> Config:
    """Read a config once; nobody may change it."""
    return load_config(path)


def stand_in(words: List[str]) -> List[str]:
    """Put something in place of the words that stand for a reader's own."""
    return [STAND_INS.get(word, word) for word in words]


def first_epoch(text: str) -> str:
    """Name the checkpoint of the only epoch instead of the last one's."""
    return re.sub(r'epoch_\d+\.pth', 'epoch_1.pth', text)


def warm_up_epochs(cfg: Config) -> int:
    """Return when the last of the learning rate's schedules begins."""
    schedules = cfg.get('param_scheduler') or []
    schedules = schedules if isinstance(schedules, list) else [schedules]
    return max(
        (s.get('begin', 0) for s in schedules if s.get('by_epoch', True)), default=0
    )


def fewer(path: str, epochs: int = 1) -> List[str]:
    """Return options that let a config train for some epochs of some images."""
    cfg = read(path)
    options = [
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
        'train_cfg.val_interval=1',
    ]
    if cfg.train_cfg.get('by_epoch', True) and 'max_epochs' in cfg.train_cfg:
        epochs += warm_up_epochs(cfg)
        options.append(f'train_cfg.max_epochs={epochs}')
    teacher = cfg.model.get('distiller', {}).get('checkpoint')
    if teacher:
        options.append(f'model.distiller.checkpoint={first_epoch(teacher)}')
    for name in ('train', 'val', 'test'):
        key = f'{name}_dataloader'
        loader, inner = cfg[key], f'{key}.dataset'
        dataset = loader.dataset
        while 'dataset' in dataset:
            dataset, inner = dataset.dataset, f'{inner}.dataset'
        size = (
            'num_per_class=2'
            if dataset.type in ('frskd_mm.CIFAR100', 'frskd_mm.Digits')
            else 'indices=8'
        )
        options.append(f'{inner}.{size}')
        if name == 'train' and loader.batch_size > 20:
            options.append(f'{key}.batch_size=20')
    return options


def with_options(arguments: List[str], options: List[str]) -> List[str]:
    """Add ``--cfg-options`` behind those that are there."""
    if '--cfg-options' not in arguments:
        return [*arguments, '--cfg-options', *options]
    end = arguments.index('--cfg-options') + 1
    while end < len(arguments) and '=' in arguments[end]:
        end += 1
    return [*arguments[:end], *options, *arguments[end:]]


def replace_option(arguments: List[str], option: str, values: List[str]) -> List[str]:
    """Set an option to other values, whether or not it is there."""
    if option in arguments:
        begin = arguments.index(option)
        end = begin + 1
        while end < len(arguments) and not arguments[end].startswith('--'):
            end += 1
        arguments = [*arguments[:begin], *arguments[end:]]
    return [*arguments, option, *values]


def shorten(tool: str, arguments: List[str]) -> List[str]:
    """Return a tool's arguments for a run of seconds."""
    arguments = [first_epoch(word) for word in arguments]
    if tool in ('train', 'test'):
        # What is resumed has had its one epoch by the command before.
        epochs = 2 if '--resume' in arguments else 1
        return with_options(arguments, fewer(arguments[0], epochs))
    if tool == 'compare':
        option = '--config' if '--config' in arguments else '--quick'
        config = arguments[arguments.index(option) + 1]
        arguments = replace_option(arguments, '--seeds', ['0'])
        return with_options(arguments, fewer(config))
    if tool == 'benchmark':
        sweep = '--sweep' in arguments
        if sweep:
            kind = arguments[arguments.index('--sweep') + 1]
            two = {'batch': '2 4', 'size': '16 32', 'levels': '2 3', 'width': '1 2'}
            arguments = replace_option(arguments, '--sweep', [kind, *two[kind].split()])
        arguments = replace_option(arguments, '--batch-size', ['2'])
        if '--image-size' in arguments:
            arguments = replace_option(arguments, '--image-size', ['128', '128'])
        arguments = replace_option(arguments, '--steps', ['1'])
        return replace_option(arguments, '--warmup', ['0'])
    if tool == 'demo':
        arguments = replace_option(arguments, '--seeds', ['0'])
        return replace_option(arguments, '--epochs', ['1'])
    return arguments
