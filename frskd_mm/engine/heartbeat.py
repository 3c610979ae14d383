"""Ending a distributed run when one of its processes is frozen."""

import os
import sys
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from math import inf
from typing import Dict, Iterator, Optional

from mmengine.config import Config
from torch import distributed

#: Seconds without a sign of life of a process after which the others end.
TIMEOUT = 60.0
#: What a process adds to its count when it has ended as it should.
ENDED = -(2**40)
EXIT_CODE = 75


@contextmanager
def watch_processes(cfg: Config) -> Iterator[None]:
    """End this process when another one of the run shows no sign of life.

    A process that is killed closes its connections, and the others fail at once.
    One that is frozen, by SIGSTOP or a machine that swaps, keeps them open, and the
    others would wait for as long as the collective operations' timeout says: half
    an hour, since a process may well be busy that long, computing metrics. So each
    process counts in a thread of its own, which goes on while the process is busy,
    and looks at the others' counts.

    Args:
        cfg: Config with ``launcher``. Its ``env_cfg.heartbeat_timeout`` replaces the
            seconds; 0 switches this off.
    """
    timeout = float((cfg.get('env_cfg') or {}).get('heartbeat_timeout', TIMEOUT))
    if timeout < 0:
        raise ValueError(
            f'env_cfg.heartbeat_timeout is in seconds, 0 for none, not {timeout}.'
        )
    if cfg.get('launcher', 'none') == 'none' or not timeout:
        yield
        return
    heartbeat = _Heartbeat(timeout)
    heartbeat.start()
    try:
        yield
    except BaseException:
        heartbeat.stop(has_ended=False)
        raise
    heartbeat.stop(has_ended=True)


class _Heartbeat:
    """Counts for this process, and looks at the counts of the others."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.interval = timeout, min(timeout / 6, 5.0)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f'heartbeat-{name}', daemon=True)
            for name, target in (('exchange', self._exchange), ('watch', self._watch))
        ]
        self._store: Optional[distributed.TCPStore] = None
        #: When the store answered last, and when the counts of others changed.
        self._answered = 0.0
        self._changed: Dict[int, float] = {}

    def start(self) -> None:
        """Start both threads: the store of a frozen process does not answer."""
        for thread in self._threads:
            thread.start()

    def stop(self, has_ended: bool) -> None:
        """End the threads; say that the process needs none, if it has ended well.

        They are waited for: a thread that is inside the store when the interpreter
        ends takes the process with it, as "terminate called without an active
        exception", exit code -6.
        """
        self._stopping.set()
        for thread in self._threads:
            thread.join(self.timeout)
        if has_ended and self._store is not None:
            try:
                self._store.add(self._key(distributed.get_rank()), ENDED)
            except RuntimeError:  # the first process, with the store, has ended
                pass

    @staticmethod
    def _key(rank: int) -> str:
        # A restarted group of torchrun has the same store.
        attempt = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
        return f'frskd_mm/heartbeat/{attempt}/{rank}'

    def _exchange(self) -> None:
        while not distributed.is_initialized():
            if self._stopping.wait(self.interval):
                return
        if not {'MASTER_ADDR', 'MASTER_PORT'} <= os.environ.keys():
            return  # a group that met otherwise, whose store is not known
        rank, size = distributed.get_rank(), distributed.get_world_size()
        counts = dict.fromkeys(set(range(size)) - {rank}, 0)
        while not self._stopping.wait(self.interval):
            try:
                if self._store is None:
                    self._store = self._connect()
                self._store.add(self._key(rank), 1)
                # From the first answer on: a group may have met elsewhere.
                self._answered = time.monotonic()
                self._changed = self._changed or dict.fromkeys(counts, self._answered)
                for other in counts:
                    count = self._store.add(self._key(other), 0)
                    self._answered = time.monotonic()
                    if count != counts[other]:
                        counts[other] = count
                        # One that has ended well is not waited for.
                        self._changed[other] = self._answered if count >= 0 else inf
            except RuntimeError:  # the process with the store has ended
                pass

    def _watch(self) -> None:
        while not self._stopping.wait(self.interval):
            if not self._changed:  # the processes have not met
                continue
            if time.monotonic() - self._answered > self.timeout:
                self._end('The first process of the run, or its launcher,')
            for other, changed in self._changed.items():
                if self._answered - changed > self.timeout:
                    self._end(f'Process {other} of 0 to {len(self._changed)}')

    def _connect(self) -> distributed.TCPStore:
        # Its own connection: the main thread may wait for an answer on the other. To
        # connect, it tries again; the end of the run need not wait for it.
        store = distributed.TCPStore(
            os.environ['MASTER_ADDR'],
            int(os.environ['MASTER_PORT']),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(1.0, self.interval)),
        )
        store.set_timeout(timedelta(seconds=max(1.0, self.timeout / 2)))
        return store

    def _end(self, who: str) -> None:
        # The main thread waits in a collective operation: no exception reaches it.
        print(
            f'{who} has shown no sign of life for {self.timeout:g} s: it is frozen, '
            'or its machine or the connection is. This process ends. Finished epochs '
            'are saved: end what is left of the run and start it again with --resume. '
            'env_cfg.heartbeat_timeout sets the seconds, 0 switches this off.',
            file=sys.stderr,
            flush=True,
        )
        os._exit(EXIT_CODE)
