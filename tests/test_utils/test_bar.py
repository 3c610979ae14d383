"""The bar of progress: drawn in a terminal, lines elsewhere, never in the way."""

import logging
import os
import pty
import re
import subprocess
import sys
from io import StringIO

from mmengine.logging import MMLogger
from rich.console import Console
from small_runs import CONFIG, OPTIONS

from frskd_mm.utils import bar as bar_module
from frskd_mm.utils.bar import Bar


class Terminal(StringIO):
    def isatty(self):
        return True


def terminal(monkeypatch):
    """Let a terminal of 80 columns stand for both streams."""
    file = Terminal()
    monkeypatch.setattr(bar_module, 'BAR_INTERVAL', 0.0)
    monkeypatch.setattr(sys, 'stdout', file)
    monkeypatch.setattr(sys, 'stderr', file)
    return Console(force_terminal=True, width=80)


def plain(text):
    """Return what was printed, line by line, without escape codes."""
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
    return re.split(r'[\r\n]+', text)


def test_lines_are_printed_above_the_bar_as_they_are(monkeypatch):
    console = terminal(monkeypatch)
    file = sys.stdout
    logger = MMLogger('bar', log_level=logging.INFO)
    long = 'a [bold]line[/bold] ' + 'longer than the terminal ' * 8
    with Bar(4, 'steps', console=console) as bar:
        bar.catch_logger(logger)
        for number in range(3):
            bar.advance(description=f'epoch {number}')
            logger.info(long)
            print('half a ', end='')
            print('line')
        print('the end without a line', end='')
    printed = plain(file.getvalue())
    assert sum(line.endswith(long) for line in printed) == 3
    assert printed.count('half a line') == 3
    assert printed[-1] == 'the end without a line'
    drawn = [line for line in printed if ' of 4 steps' in line]
    assert re.match(r'3 of 4 steps .* left  epoch 2', drawn[-1])
    assert not any(long in line for line in drawn)
    # All is as it was.
    assert sys.stdout is sys.stderr is file
    assert [handler.stream for handler in logger.handlers] == [file]


def test_a_forked_worker_writes_past_the_bar(monkeypatch):
    console = terminal(monkeypatch)
    file = sys.stdout
    with Bar(2, 'steps', console=console):
        sys.stdout.process = -1  # as if it were another one's
        sys.stdout.write('worker')
        assert file.getvalue().endswith('worker')


def test_without_a_terminal_there_is_a_line_a_minute(monkeypatch):
    file = StringIO()
    clock = iter(range(0, 3000, 25))
    monkeypatch.setattr(bar_module.time, 'monotonic', lambda: float(next(clock)))
    with Bar(8, 'steps', console=Console(file=file)) as bar:
        for _ in range(8):
            bar.advance(description='batch 32')
    lines = file.getvalue().splitlines()
    assert 2 <= len(lines) <= 4
    pattern = r'\d of 8 steps; time left: (not known yet|[\d.]+ min); batch 32'
    assert all(re.fullmatch(pattern, line) for line in lines)
    assert '\x1b' not in file.getvalue()


def test_training_in_a_terminal_shows_log_and_bar(repo, tmp_path):
    """frskd train in a pseudo-terminal, which the log must survive."""
    options = {**OPTIONS, 'log_level': 'INFO', 'train_cfg.max_epochs': 1}
    options['default_hooks.logger.interval'] = 1
    command = [sys.executable, '-m', 'frskd_mm', 'train', CONFIG, '--work-dir']
    command += [str(tmp_path), '--cfg-options']
    command += [f'{key}={value}' for key, value in options.items()]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, cwd=repo, stdout=theirs, stderr=theirs)
    os.close(theirs)
    parts = []
    try:
        while True:
            parts.append(os.read(ours, 4096))
    except OSError:  # its end, on Linux
        pass
    os.close(ours)
    printed = plain(b''.join(parts).decode())
    assert process.wait() == 0, '\n'.join(printed[-30:])
    (log,) = tmp_path.glob('*/*.log')
    logged = [line for line in log.read_text().splitlines() if 'Epoch(train)' in line]
    assert len(logged) == 5
    for line in logged:
        message = line.partition(' - ')[2]
        assert sum(shown.endswith(message) for shown in printed) == 1
    assert any(re.match(r'0 of 5 iterations ', line) for line in printed)
