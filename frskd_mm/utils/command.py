"""How commands begin and end.

A mistake of the user ends a command with a sentence and exit code 2; a fault of
the code shows its traceback, as ever.
"""

import argparse
import dis
import errno
import logging
import os.path as osp
import re
import shlex
import sys
from types import TracebackType
from typing import Any, Callable, Iterator, Optional

from mmengine.config import DictAction
from mmengine.logging import MMLogger

PACKAGE = __name__.split('.', maxsplit=1)[0]
#: The console command.
NAME = 'frskd'
#: Errors of the system that may be none the next time: too little memory, too many
#: open files, a disk or a connection that failed.
PASSING = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EIO, errno.ETIMEDOUT)


def command_line(with_arguments: bool = True) -> str:
    """Return what the user typed: ``frskd train ...`` or ``python tools/train.py ...``.

    Args:
        with_arguments: Whether to give the arguments, too.
    """
    program, *arguments = sys.argv
    is_script = not program.startswith(f'{NAME} ')
    start = f'python {shlex.quote(program)}' if is_script else program
    return ' '.join([start, *([shlex.join(arguments)] if with_arguments else [])])


class CommandParser(argparse.ArgumentParser):
    """A parser with the options that all commands have in common.

    A description that begins with ``frskd COMMAND`` in backquotes shows the door that
    the user came in by, such as ``python tools/train.py``.
    """

    def __init__(self, **kwargs: Any) -> None:
        called = command_line(with_arguments=False)
        description = kwargs.pop('description', None) or ''
        super().__init__(
            description=re.sub(rf'`{NAME} \w+', lambda _: f'`{called}', description),
            **kwargs,
        )
        self.add_argument(
            '--traceback',
            action='store_true',
            help='show where a mistake was noticed; the log of a run has it anyway',
        )

    def add_cfg_options(
        self, purpose: str = 'replace config values: key=value, nested keys with dots'
    ) -> None:
        """Add ``--cfg-options key=value ...``, and ``--trust-checkpoint``."""
        self.add_argument(
            '--cfg-options', nargs='+', action=KeyValueAction, help=purpose
        )
        self.add_argument(
            '--trust-checkpoint',
            dest='cfg_options',
            nargs=0,
            action=TrustAction,
            help='load checkpoints that could run code, not only tensors and plain '
            'data; the same as trust_checkpoint=True',
        )


class KeyValueAction(DictAction):
    """MMEngine's action for ``key=value``, with a message where '=' is missing."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Optional[str] = None,
    ) -> None:
        """Parse the options into a dict."""
        for text in values:
            key, separator, _ = text.partition('=')
            if not separator or not key.strip('.'):
                parser.error(
                    f'{option_string} takes KEY=VALUE, such as '
                    f'train_dataloader.batch_size=8, not {text!r}. There are no '
                    "spaces around '='."
                )
        before = getattr(namespace, self.dest, None)
        super().__call__(parser, namespace, values, option_string)
        _add_options(namespace, self.dest, before)


class TrustAction(argparse.Action):
    """Set the config's ``trust_checkpoint``."""

    def __call__(self, parser: Any, namespace: Any, *args: Any) -> None:
        """Add it to the options."""
        _add_options(namespace, self.dest, dict(trust_checkpoint=True))


def _add_options(
    namespace: argparse.Namespace, name: str, options: Optional[dict]
) -> None:
    if options:
        setattr(namespace, name, {**options, **(getattr(namespace, name) or {})})


def run_command(main: Callable[[], None]) -> None:
    """Run a command; end with exit code 2 after a mistake of the user.

    The traceback goes into the log file, if a run has begun one, and to the
    screen with ``--traceback`` or where the code is at fault.

    Args:
        main: The command; parses ``sys.argv`` with a :class:`CommandParser`.
    """
    try:
        main()
    except Exception as error:
        log_file = _log_traceback(error)
        if '--traceback' in sys.argv or not is_user_mistake(error):
            raise
        where = '--traceback shows where this was noticed.'
        if log_file:
            where = f'The log has the traceback: {log_file}'
        name = osp.basename(sys.argv[0])
        sys.stdout.flush()
        print(f'{name}: error: {sentence(error)}\n({where})', file=sys.stderr)
        sys.exit(2)


def sentence(error: BaseException) -> str:
    """Return what an error says, with its kind where it is not our own."""
    is_bare_key = isinstance(error, KeyError) and len(error.args) == 1
    message = str(error.args[0] if is_bare_key else error)
    is_own = _module(_innermost(error)).startswith(PACKAGE) or _is_own_class(error)
    return message if is_own else f'{type(error).__name__}: {message}'


def is_user_mistake(error: BaseException) -> bool:
    """Whether an error tells the user something, instead of showing a bug.

    These are the errors that our code raises on purpose, by a ``raise``
    statement, at any time; those that other libraries raise on purpose while
    a config is read and its parts are built, but not within a training or
    test loop; arguments that a part's constructor does not take; and files
    that cannot be read or written, unless the machine is at fault. All others, such
    as the ``TypeError`` of a wrong call within our code, are bugs.

    Args:
        error: As caught, with its traceback.
    """
    if _is_own_class(error):
        return True
    if isinstance(error, OSError):
        return not _is_passing(error)
    last = _innermost(error)
    if last is None or not str(error):
        return False
    frame = last.tb_frame
    if isinstance(error, TypeError) and frame.f_code.co_name == 'build_from_cfg':
        return True
    on_purpose = raised_on_purpose(error)
    in_loop = any(
        _module(entry) == 'mmengine.runner.loops' for entry in _entries(error)
    )
    return on_purpose and (_module(last).startswith(PACKAGE) or not in_loop)


def _is_passing(error: OSError) -> bool:
    """Whether the machine is at fault, which may have more memory the next time."""
    return isinstance(error, ConnectionError) or error.errno in PASSING


def raised_on_purpose(error: BaseException) -> bool:
    """Whether a ``raise`` or ``assert`` in Python code caused an error."""
    last = _innermost(error)
    if last is None:
        return False
    code = last.tb_frame.f_code.co_code
    return dis.opname[code[last.tb_lasti]] == 'RAISE_VARARGS'


def is_own_refusal(error: BaseException) -> bool:
    """Whether our code raised an error on purpose, by a ``raise`` statement."""
    if _is_own_class(error):
        return True
    return raised_on_purpose(error) and _module(_innermost(error)).startswith(PACKAGE)


def _is_own_class(error: BaseException) -> bool:
    return type(error).__module__.startswith(PACKAGE)


def _entries(error: BaseException) -> Iterator[TracebackType]:
    entry = error.__traceback__
    while entry is not None:
        yield entry
        entry = entry.tb_next


def _innermost(error: BaseException) -> Optional[TracebackType]:
    entries = list(_entries(error))
    return entries[-1] if entries else None


def _module(entry: Optional[TracebackType]) -> str:
    return str(entry.tb_frame.f_globals.get('__name__')) if entry else ''


def _log_traceback(error: BaseException) -> Optional[str]:
    """Write an error to the log file of the present run, and return its path."""
    path = None
    logger = MMLogger.get_current_instance()
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            record = logger.makeRecord(
                logger.name,
                logging.ERROR,
                __file__,
                0,
                'The run ended with an error.',
                (),
                (type(error), error, error.__traceback__),
            )
            handler.handle(record)
            path = handler.baseFilename
    return path
