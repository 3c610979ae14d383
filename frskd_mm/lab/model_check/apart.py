"""Many models, each in a process of its own, with one record each.

A run can be interrupted at any time, and goes on where it stopped. Processes are
forked from one that has imported the libraries, which POSIX systems alone can do.
"""

import json
import multiprocessing
import os
import os.path as osp
import re
import resource
import time
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Dict, Iterable, List, NamedTuple, Tuple

import torch
import yaml

from frskd_mm.utils.checkpoint_files import write_whole

from .check import CUT_OFF, NOT_PLAIN, UNCLEAR, check_model

GIB = 2**30


class Entry(NamedTuple):
    """A config that is tried.

    Attributes:
        library: Its package, such as 'mmdet'.
        group: What the family is one of.
        family: Its name.
        config: Path within the library.
        needs: Settings without which the plain model cannot train either.
    """

    library: str
    group: str
    family: str
    config: str
    needs: Dict[str, Any]

    @property
    def path(self) -> str:
        """What ``frskd train`` takes."""
        return f'{self.library}::{self.config}' if self.library else self.config

    @property
    def file(self) -> str:
        """Where it is; MMEngine reads all metafiles of a library to find that out."""
        if not self.library:
            return self.config
        (package,) = import_module(self.library).__path__
        return osp.join(package, '.mim', 'configs', self.config)

    @property
    def slug(self) -> str:
        """Its name as that of a file."""
        name = f'{self.library}-{self.family}'.lower().replace('+', '-plus')
        return re.sub(r'\W+', '-', name).strip('-')


def read_entries(path: str) -> List[Entry]:
    """Read a list of configs.

    Args:
        path: YAML file: library -> group -> family -> config, or a dict of
            ``config`` and ``needs``. Configs of no library are paths: ''.
    """
    with open(path, encoding='utf-8') as file:
        listed = yaml.safe_load(file)
    entries = []
    for library, groups in listed.items():
        for group, families in groups.items():
            for family, one in families.items():
                one = dict(config=one) if isinstance(one, str) else one
                needs = one.get('needs', {})
                entries.append(Entry(library, group, family, one['config'], needs))
    return entries


def nightly(entries: Iterable[Entry]) -> List[Entry]:
    """Return the first entry of each group."""
    first: Dict[Tuple[str, str], Entry] = {}
    for entry in entries:
        first.setdefault((entry.library, entry.group), entry)
    return list(first.values())


def select(entries: List[Entry], only: Iterable[str], shard: str) -> List[Entry]:
    """Return the entries of a shard, of those that are asked for.

    Args:
        entries: All.
        only: Libraries, groups, families or configs; none for all.
        shard: 'I/N', the I-th of N.

    Raises:
        ValueError: If ``only`` names what is not there, or the shard does not exist.
    """
    wanted = set(only)
    known = {name for entry in entries for name in entry[:4]}
    if wanted - known:
        raise ValueError(
            f'--only knows no {", ".join(sorted(wanted - known))}. It takes libraries, '
            'groups, families or configs of the list.'
        )
    match = re.fullmatch(r'(\d+)/(\d+)', shard)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(
            f"--shard is I/N with I from 1 to N, such as '1/4', not {shard}."
        )
    chosen = [e for e in entries if not wanted or wanted & set(e[:4])]
    return chosen[int(match[1]) - 1 :: int(match[2])]


def record_path(folder: str, entry: Entry) -> str:
    """Return the file of an entry's record."""
    return osp.join(folder, f'{entry.slug}.json')


def read_record(folder: str, entry: Entry) -> Dict[str, Any]:
    """Return an entry's record; empty if there is none, or of another config."""
    path = record_path(folder, entry)
    if not osp.isfile(path):
        return {}
    with open(path, encoding='utf-8') as file:
        record = json.load(file)
    same = record['config'] == entry.config and record['needs'] == entry.needs
    return record if same else {}


def write_record(folder: str, entry: Entry, record: Dict[str, Any]) -> None:
    """Write an entry's record, so that it is there whole or not at all."""
    text = json.dumps({**entry._asdict(), **record}, indent=1)
    write_whole(record_path(folder, entry), text.encode())


def preload(libraries: Iterable[str]) -> None:
    """Import libraries once for all processes that are forked.

    No model may run here: what is forked could not run one any more.
    """
    for library in filter(None, libraries):
        import_module(f'{library}.models')


def check_apart(
    entry: Entry, method: str, folder: str, timeout: float, memory: float
) -> Dict[str, Any]:
    """Check an entry in a process that cannot harm others.

    Args:
        entry: What to check.
        method: Method to wrap with.
        folder: Gets the log.
        timeout: Seconds after which it is cut off.
        memory: GiB that it may take.

    Returns:
        dict: See :func:`check_model`, and ``seconds``.
    """
    context = multiprocessing.get_context('fork')
    receiver, sender = context.Pipe(duplex=False)
    os.makedirs(folder, exist_ok=True)
    log = osp.join(folder, f'{entry.slug}.log')
    process = context.Process(
        target=_check_here, args=(sender, log, memory, entry, method), daemon=True
    )
    begin = time.monotonic()
    process.start()
    sender.close()
    result: Dict[str, Any] = {'phase': 'plain'}
    cut = ''
    try:
        while 'outcome' not in result:
            if not receiver.poll(max(begin + timeout - time.monotonic(), 0)):
                cut = f'not done after {timeout:g} s'
                break
            result.update(receiver.recv())
    except EOFError:
        process.join()
        result.update(outcome=UNCLEAR, error=f'It ended with code {process.exitcode}.')
    process.kill()
    process.join()
    if cut:
        result.update(outcome=CUT_OFF, error=cut)
    if result['phase'] == 'plain' and result['outcome'] in (CUT_OFF, UNCLEAR):
        result.update(outcome=NOT_PLAIN, plain_error=result['error'])
    return {**result, 'seconds': round(time.monotonic() - begin, 1)}


def _check_here(
    sender: Connection, log: str, memory: float, entry: Entry, method: str
) -> None:
    """Check an entry in this process and send what is seen."""
    with open(log, 'w', encoding='utf-8') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    limit = int(memory * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    result = check_model(
        entry.file,
        method,
        entry.needs,
        note=lambda phase: sender.send(dict(phase=phase)),
    )
    error = result['error'].replace(entry.file, entry.path)
    result['error'] = re.sub(r"[^\s']*/site-packages/", '', error)
    sender.send(result)
