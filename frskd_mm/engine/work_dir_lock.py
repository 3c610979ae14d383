"""One training at a time in a work directory."""

import json
import os
import os.path as osp
import socket
import time
from contextlib import contextmanager
from typing import Dict, Iterator, Optional, TextIO

LOCK = 'training.lock'
#: Where a launcher says which process this is. Of another one around it, as of an
#: mpirun within a Slurm job, all processes may have the same.
RANKS = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')


class WorkDirLock:
    """A held work directory."""

    def __init__(self, file: Optional[TextIO] = None, was_finished: bool = False):
        self._file = file
        #: Whether the training before this one has ended as its config says.
        self.was_finished = was_finished

    def note(self, state: str) -> None:
        """Write who trains here and whether it has ended, for the next training."""
        if self._file is None:
            return
        entry = dict(
            state=state,
            process=os.getpid(),
            machine=socket.gethostname(),
            since=time.strftime('%Y-%m-%d %H:%M:%S'),
        )
        self._file.seek(0)
        self._file.truncate()
        json.dump(entry, self._file)
        self._file.flush()


@contextmanager
def hold_work_dir(work_dir: str, launcher: str = 'none') -> Iterator[WorkDirLock]:
    """Keep other trainings out of a work directory.

    The operating system ends the hold with the process, however it ends; data
    loader workers that outlive it hold nothing. Of several processes the first
    one holds.

    Args:
        work_dir: Folder; created.
        launcher: As of the config.

    Raises:
        BlockingIOError: If another process trains there.
    """
    if os.environ.get(RANKS.get(launcher, ''), '0') != '0':
        yield WorkDirLock()
        return
    os.makedirs(work_dir, exist_ok=True)
    path = osp.join(work_dir, LOCK)
    with open(path, 'a+', encoding='utf-8') as file:
        before = _read(file)
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            raise BlockingIOError(
                f'Another training runs in {work_dir}: process '
                f'{before.get("process", "unknown")} on '
                f'{before.get("machine", "an unknown machine")}, since '
                f'{before.get("since", "some time")}. Two would overwrite each '
                "other's checkpoints. Wait until it has ended, end it, or give "
                'another --work-dir.'
            ) from error
        lock = WorkDirLock(file, before.get('state') == 'finished')
        lock.note('training')
        yield lock


def _lock(file: TextIO) -> None:
    """Lock a file for this process alone.

    Not with ``flock``, whose locks a process hands on to those that it forks.

    Raises:
        BlockingIOError: If another process holds it. Some systems say it with a
            PermissionError.
    """
    try:
        import fcntl
    except ImportError:  # Windows, which starts processes anew
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise
    except OSError as error:
        raise OSError(
            f'{file.name} cannot be locked ({error}): the file system has no locks. '
            'Give a --work-dir on another one.'
        ) from error


def _read(file: TextIO) -> Dict[str, str]:
    file.seek(0)
    try:
        entry = json.load(file)
    except ValueError:  # empty, or cut off
        return {}
    return entry if isinstance(entry, dict) else {}
