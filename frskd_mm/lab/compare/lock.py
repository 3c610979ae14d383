"""One command at a time in a folder."""

import os.path as osp
from contextlib import contextmanager
from typing import Iterator

from filelock import FileLock, Timeout

LOCK = '.lock'


@contextmanager
def hold(folder: str) -> Iterator[None]:
    """Keep other commands out of a folder of a grid, or of one of its runs.

    The folder is free again when the process has ended, however it did.

    Raises:
        BlockingIOError: If another process holds it.
    """
    lock = FileLock(osp.join(folder, LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BlockingIOError(
            f'Another command is training in {folder}. Wait until it has ended, or '
            'give another --out. Runs whose command was killed end with their '
            'present step or test.'
        ) from error
    try:
        yield
    finally:
        lock.release()
