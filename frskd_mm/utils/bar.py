"""A bar of progress with the time left, which lets other lines be printed above it."""

import logging
import os
import sys
import time
from typing import Any, List, Optional, TextIO, Tuple

from rich import get_console
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

#: Seconds between two drawings of the bar, and between lines where there is none.
BAR_INTERVAL, LINE_INTERVAL = 0.5, 60.0
#: Seconds of which the speed is taken for the time that is left.
SPEED_PERIOD = 600.0


class Bar:
    """Progress of long work: a bar in a terminal, else a line now and then.

    No thread draws it: a process that is forked meanwhile, as data loaders do, would
    inherit the thread's locks. What is printed or logged appears above the bar.

    Args:
        total (int): How many units of work there are.
        unit (str): What they are called.
        lines (bool): Print a line a minute where there is no terminal.
        console (Console, optional): rich's, of another stream than the standard
            output.
    """

    def __init__(
        self,
        total: int,
        unit: str = 'steps',
        lines: bool = True,
        console: Optional[Console] = None,
    ) -> None:
        self.console = console or get_console()
        self.unit = unit
        self.lines = lines
        self.progress = Progress(
            TextColumn(f'{{task.completed:g}} of {{task.total:g}} {unit}'),
            BarColumn(bar_width=20),
            TimeRemainingColumn(),
            TextColumn('left  {task.description}', markup=False),
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            speed_estimate_period=SPEED_PERIOD,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task('', total=total)
        self.shown = time.monotonic()
        self._caught: List[Tuple[Any, str, _Above]] = []

    @property
    def is_drawn(self) -> bool:
        """Whether there is a terminal to draw in."""
        return not self.progress.disable

    def __enter__(self) -> 'Bar':
        """Begin to draw."""
        self.progress.start()
        if self.is_drawn:
            self._catch(sys, 'stdout')
            self._catch(sys, 'stderr')
        return self

    def __exit__(self, *args: Any) -> None:
        """Take the bar away and give the streams back."""
        for owner, name, above in reversed(self._caught):
            setattr(owner, name, above.stream)
        self.progress.stop()
        for _, _, above in self._caught:
            above.stream.write(above.waiting)
        self._caught.clear()

    def catch_logger(self, logger: logging.Logger) -> None:
        """Let what a logger prints appear above the bar; its files stay."""
        if not self.is_drawn:
            return
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                self._catch(handler, 'stream')

    def _catch(self, owner: Any, name: str) -> None:
        stream = getattr(owner, name)
        if isinstance(stream, _Above) or not getattr(stream, 'isatty', bool)():
            return
        above = _Above(self.console, stream)
        self._caught.append((owner, name, above))
        setattr(owner, name, above)

    def advance(self, amount: float = 1, description: Optional[str] = None) -> None:
        """Note that work was done, and show it from time to time.

        Args:
            amount: Units that were done.
            description: What is being done now.
        """
        self.progress.update(self.task, advance=amount)
        self.show(description)

    def show(self, description: Optional[str] = None) -> None:
        """Draw the bar, or print a line, unless that was done just now."""
        if description is not None:
            self.progress.update(self.task, description=description)
        interval = BAR_INTERVAL if self.is_drawn else LINE_INTERVAL
        now = time.monotonic()
        if now - self.shown < interval:
            return
        self.shown = now
        if self.is_drawn:
            self.progress.refresh()
        elif self.lines:
            self.console.print(self.line(), markup=False, highlight=False)

    def line(self) -> str:
        """Return the progress as a line of text."""
        (task,) = self.progress.tasks
        left = task.time_remaining
        time_left = 'not known yet' if left is None else f'{left / 60:.1f} min'
        done = f'{task.completed:g} of {task.total:g} {self.unit}'
        return f'{done}; time left: {time_left}; {task.description}'.rstrip('; ')


class _Above:
    """A stream whose lines are printed above the bar, as they are.

    Args:
        console: The bar's.
        stream: What it stands for; another process writes there.
    """

    def __init__(self, console: Console, stream: TextIO) -> None:
        self.console, self.stream = console, stream
        self.rich_proxied_file = stream  # where the console itself writes
        self.process = os.getpid()
        self.waiting = ''

    def write(self, text: str) -> int:
        """Print whole lines; keep the rest until it is one."""
        if os.getpid() != self.process:  # a worker of a data loader
            return self.stream.write(text)
        *lines, self.waiting = (self.waiting + text).split('\n')
        for line in lines:
            self.console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; half a line waits for its end."""
        self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        """Be the stream otherwise."""
        return getattr(self.stream, name)
