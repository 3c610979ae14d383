"""Checkpoint files: written whole, with a checksum, and checked before use.

The checksum is the comment at the end of the zip archive that ``torch.save`` writes,
so it is never separated from its file and everybody else reads past it.
"""

import hashlib
import os
import os.path as osp
import zipfile
from contextlib import suppress
from glob import escape, glob
from struct import pack, unpack
from typing import Any, BinaryIO, Iterator, List, NamedTuple, Optional, Sequence, Union

from mmengine.fileio import LocalBackend, register_backend

COMMENT = b'frskd_mm sha256='
#: Length of the comment, and of it with the two bytes before it that say so.
LENGTH = len(COMMENT) + 64
TAIL = LENGTH + 2
#: The end of a zip archive without a comment: its signature, its length.
ZIP_END, ZIP_END_LENGTH = b'PK\x05\x06', 22
CHUNK = 2**20
#: What unfinished files are called; a later one of the same name replaces them.
UNFINISHED = '.part'


def write_whole(path: Union[str, 'os.PathLike[str]'], *parts: Any) -> None:
    """Write a file as a whole or not at all, whatever happens meanwhile.

    It is written under another name, flushed to the disk, and renamed.

    Args:
        path: File; its folder is created, and a link is followed.
        *parts: Bytes, written one after another.
    """
    target = osp.realpath(path)
    folder = osp.dirname(target)
    os.makedirs(folder, exist_ok=True)
    unfinished = target + UNFINISHED
    try:
        with open(unfinished, 'wb') as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    except BaseException:  # a full disk, Ctrl+C
        if osp.exists(unfinished):
            os.remove(unfinished)
        raise
    if os.name == 'posix':  # the new name, too, is on the disk
        entry = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems have no such thing
                os.fsync(entry)
        finally:
            os.close(entry)


def _is_unsealed(content: bytes) -> bool:
    """Tell whether bytes are what ``torch.save`` writes, without our checksum."""
    end = content[-ZIP_END_LENGTH:]
    return (
        content[:2] == b'PK'
        and b'/data.pkl' in content[:CHUNK]
        and end[:4] == ZIP_END
        and end[-2:] == b'\0\0'
    )


class WholeFileBackend(LocalBackend):
    """MMEngine's backend for local files, which writes them whole.

    Checkpoints get a checksum.
    """

    def put(self, obj: bytes, filepath: Union[str, 'os.PathLike[str]']) -> None:
        """Write bytes."""
        if not _is_unsealed(obj):
            write_whole(filepath, obj)
            return
        body = memoryview(obj)[:-2]
        digest = hashlib.sha256(body).hexdigest().encode()
        write_whole(filepath, body, pack('<H', LENGTH), COMMENT, digest)

    def put_text(
        self,
        obj: str,
        filepath: Union[str, 'os.PathLike[str]'],
        encoding: str = 'utf-8',
    ) -> None:
        """Write text."""
        write_whole(filepath, obj.encode(encoding))


def write_files_whole() -> None:
    """Let all that MMEngine writes to local files in this process be whole."""
    register_backend('local', WholeFileBackend, force=True, prefixes='')


def find_damage(path: str) -> Optional[str]:
    """Return what is wrong with a checkpoint file, or None.

    Files that were not written here are checked by the checksums that zip archives
    have for each of their parts. Those from before PyTorch 1.6 have none.

    Args:
        path: File, or the folder that some strategies write, which is not checked.
    """
    if osp.isdir(path):
        return None
    with open(path, 'rb') as file:
        start = file.read(2)
        if not start:
            return 'it is empty, cut off or damaged'
        if start[:1] == b'\x80':  # a pickle
            return None
        if start != b'PK':
            return 'it was cut off or damaged, or is another kind of file'
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL))
        tail = file.read()
        if tail[2:].startswith(COMMENT):
            digest = _digest(file, size - TAIL)
            is_whole = tail == pack('<H', LENGTH) + COMMENT + digest
        else:
            is_whole = _is_intact_zip(file)
    return None if is_whole else 'it was cut off or damaged'


def _digest(file: BinaryIO, length: int) -> bytes:
    digest = hashlib.sha256()
    file.seek(0)
    while length > 0:
        chunk = file.read(min(CHUNK, length))
        digest.update(chunk)
        length -= len(chunk)
    return digest.hexdigest().encode()


def _is_intact_zip(file: BinaryIO) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            # Not all that the end says is there, if it was cut off.
            file.seek(-len(archive.comment) - 2, os.SEEK_END)
            is_complete = unpack('<H', file.read(2))[0] == len(archive.comment)
            return is_complete and archive.testzip() is None
    except Exception:  # damaged bytes end in errors of many kinds
        return False


class Found(NamedTuple):
    """What a work directory has to go on from."""

    #: The newest whole checkpoint, or None.
    path: Optional[str]
    #: Lines 'path: what is wrong' of newer ones.
    damaged: List[str]


def find_checkpoint(work_dir: str, folders: Sequence[str] = ()) -> Found:
    """Return the newest checkpoint of a run that is whole.

    What ``last_checkpoint`` names comes first, then the others, newest first: a file
    may be damaged, and other programs are killed while they write its name.

    Args:
        work_dir: The run's.
        folders: Where else its checkpoints are.
    """
    damaged: List[str] = []
    for path in _candidates(work_dir, folders):
        damage = find_damage(path)
        if damage is None:
            return Found(path, damaged)
        damaged.append(f'{path}: {damage}')
    return Found(None, damaged)


def has_checkpoints(work_dir: str, folders: Sequence[str] = ()) -> bool:
    """Whether a run has left any there, whole or damaged."""
    return next(_candidates(work_dir, folders), None) is not None


def _candidates(work_dir: str, folders: Sequence[str]) -> Iterator[str]:
    named = _read_name(osp.join(work_dir, 'last_checkpoint'))
    copied = osp.join(work_dir, osp.basename(named)) if named else ''
    if osp.isfile(copied):
        named = copied  # the folder may be a copy, whose file names the original's
    if named and osp.exists(named):
        yield named
    # Not best_*.pth: they lack the optimiser.
    patterns = [
        osp.join(escape(folder), f'{unit}_*.pth')
        for folder in dict.fromkeys([work_dir, *folders, osp.dirname(named or '')])
        if folder
        for unit in ('epoch', 'iter')
    ]
    # Nor what was exported beside them, each with its config.
    others = {
        path
        for pattern in patterns
        for path in glob(pattern)
        if not osp.isfile(f'{osp.splitext(path)[0]}.py')
    } - {named}
    yield from sorted(others, key=osp.getmtime, reverse=True)


def _read_name(path: str) -> Optional[str]:
    if not osp.isfile(path):
        return None
    with open(path, encoding='utf-8', errors='replace') as file:
        return file.read().strip('\0 \n') or None
