"""Processes that have loaded torch and the hosts' libraries before they begin.

A command of seconds takes ten more to import these. Each is still run in a process of
its own, as ``python SCRIPT ...`` or ``python -m MODULE ...`` would run it.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path
from typing import List

LOADED = ('mmpretrain.models', 'mmseg.models', 'mmdet.models', 'frskd_mm.engine')
FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(list(LOADED))


def run_python(words: List[str], folder: Path) -> None:
    """Run a script, or after ``-m`` a module, in a folder.

    Raises:
        AssertionError: If it fails; with the end of what it printed.
    """
    log = folder / 'printed.log'
    process = FORKS.Process(target=_run, args=(words, str(folder), str(log)))
    process.start()
    process.join()
    printed = log.read_text(errors='replace')
    assert process.exitcode == 0, f'python {" ".join(words)}\n{printed[-6000:]}'


def _run(words: List[str], folder: str, log: str) -> None:
    os.chdir(folder)
    with open(log, 'wb') as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    if words[0] == '-m':
        sys.argv = words[1:]
        sys.path.insert(0, folder)
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, os.path.dirname(words[0]))
        runpy.run_path(words[0], run_name='__main__')
