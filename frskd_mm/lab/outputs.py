"""Files that are written at the end of long work."""

import os
import os.path as osp
from typing import Optional


def check_output(option: str, path: Optional[str], picture: bool = False) -> None:
    """Refuse a file that cannot be written, before the work that it is for.

    Args:
        option: What names the file, for the error.
        path: File to write; nothing is checked without one.
        picture: Whether matplotlib is to write it.

    Raises:
        ValueError: If there is no such folder, the path is one, or it has the
            ending of no picture.
        OSError: If the file may not be written.
    """
    if not path:
        return
    folder = osp.dirname(osp.abspath(path))
    if not osp.isdir(folder):
        raise ValueError(
            f'{option} {path}: there is no folder {folder}. Make it first.'
        )
    if osp.isdir(path):
        raise ValueError(f'{option} {path} is a folder. Name a file in it.')
    if picture:
        _check_ending(option, path)
    is_new = not osp.exists(path)
    try:
        with open(path, 'a', encoding='utf-8'):
            pass
    except OSError as error:
        reason = f'{option} {path} cannot be written: {error.strerror}.'
        raise type(error)(reason) from error
    if is_new:
        os.remove(path)


def _check_ending(option: str, path: str) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    endings = FigureCanvasBase.get_supported_filetypes()
    ending = osp.splitext(path)[1][1:].lower()
    if ending not in endings:
        raise ValueError(
            f'{option} {path} is no picture that can be drawn. Give it one of the '
            f'endings {", ".join(f".{name}" for name in sorted(endings))}.'
        )


def write_file(path: str, text: str) -> None:
    """Write a text file as a whole or not at all, without waiting for the disk.

    For what is written often and may be lost in a power cut; all else takes
    ``write_whole``.
    """
    with open(f'{path}.part', 'w', encoding='utf-8') as file:
        file.write(text)
    os.replace(f'{path}.part', path)
