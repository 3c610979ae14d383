"""Checkpoint files are whole or not there, and damage is found."""

import errno
import os
import random
import shutil
import stat

import pytest
import torch
from mmengine.fileio import LocalBackend, get_file_backend, register_backend
from mmengine.runner import save_checkpoint

from frskd_mm.utils.checkpoint_files import (
    COMMENT,
    TAIL,
    WholeFileBackend,
    find_checkpoint,
    find_damage,
    write_files_whole,
    write_whole,
)


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint as a run writes it."""
    write_files_whole()
    path = tmp_path / 'epoch_1.pth'
    weights = dict(weight=torch.randn(2000), bias=torch.zeros(3))
    save_checkpoint(dict(state_dict=weights, meta=dict(epoch=1)), str(path))
    yield path
    register_backend('local', LocalBackend, force=True, prefixes='')


def test_checkpoints_have_a_checksum_that_others_read_past(checkpoint):
    assert isinstance(get_file_backend(str(checkpoint)), WholeFileBackend)
    assert COMMENT in checkpoint.read_bytes()[-100:]
    assert find_damage(str(checkpoint)) is None
    loaded = torch.load(checkpoint, weights_only=True)
    assert loaded['state_dict']['weight'].shape == (2000,)


def test_every_flipped_bit_is_found(checkpoint):
    whole = checkpoint.read_bytes()
    draw = random.Random(0)
    # All of the checksum's comment with its length, and 200 places before it.
    places = [*draw.sample(range(len(whole) - TAIL), 200), *range(-TAIL, 0)]
    missed = []
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        checkpoint.write_bytes(damaged)
        if find_damage(str(checkpoint)) is None:
            missed.append(place)
    # A flip in the words before the sum leaves the parts of the archive, which
    # have sums of their own.
    assert all(-64 - len(COMMENT) <= place < -64 for place in missed)


@pytest.mark.parametrize('length', [0, 1, 4, 100, 5000, -1, -80, -82, -200])
def test_every_cut_is_found(checkpoint, length):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:length])
    assert 'cut off or damaged' in find_damage(str(checkpoint))


def test_damage_of_files_of_others_is_found(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(dict(weight=torch.randn(1000)), path)
    assert find_damage(str(path)) is None
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    assert find_damage(str(path)) is not None


def test_a_write_that_fails_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / 'last_checkpoint'
    write_whole(path, b'before')

    def full(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        write_whole(path, b'after')
    assert path.read_bytes() == b'before'
    assert os.listdir(tmp_path) == ['last_checkpoint']


def test_a_folder_that_cannot_be_flushed_ends_nothing(tmp_path, monkeypatch):
    flush = os.fsync

    def of_files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, 'Invalid argument')
        flush(descriptor)

    monkeypatch.setattr(os, 'fsync', of_files_alone)
    write_whole(tmp_path / 'epoch_1.pth', b'content')
    assert (tmp_path / 'epoch_1.pth').read_bytes() == b'content'


def test_links_are_followed(tmp_path):
    (tmp_path / 'disk').mkdir()
    link = tmp_path / 'epoch_1.pth'
    link.symlink_to(tmp_path / 'disk' / 'file.pth')
    write_whole(link, b'content')
    assert link.is_symlink()
    assert (tmp_path / 'disk' / 'file.pth').read_bytes() == b'content'


def copies(checkpoint, *names):
    """Copy a checkpoint under names, each newer than the one before."""
    for age, name in enumerate(names):
        path = checkpoint.with_name(name)
        path.write_bytes(checkpoint.read_bytes())
        os.utime(path, (1000 + age, 1000 + age))
    checkpoint.unlink()


@pytest.mark.parametrize('last', [None, '', '\0\0', 'gone.pth', 'epoch_3.pth'])
def test_the_newest_whole_checkpoint_is_found(checkpoint, tmp_path, last):
    names = 'epoch_2', 'epoch_10', 'epoch_3', 'epoch_10_student', 'best_x'
    copies(checkpoint, *(f'{name}.pth' for name in names))
    (tmp_path / 'epoch_10_student.py').touch()  # as an export leaves it
    (tmp_path / 'epoch_3.pth').write_bytes(b'')
    (tmp_path / 'epoch_4.pth.part').write_bytes(b'PK')
    if last is not None:
        name = str(tmp_path / last) if last.endswith('.pth') else last
        (tmp_path / 'last_checkpoint').write_text(name)
    found = find_checkpoint(str(tmp_path))
    assert found.path == str(tmp_path / 'epoch_10.pth')
    assert ['epoch_3.pth' in line for line in found.damaged] == [True]


def test_a_copied_folder_goes_on_from_its_own_files(checkpoint, tmp_path):
    copy = tmp_path / 'copy'
    copy.mkdir()
    shutil.copy(checkpoint, copy / 'epoch_1.pth')
    (copy / 'last_checkpoint').write_text(str(checkpoint))
    assert find_checkpoint(str(copy)).path == str(copy / 'epoch_1.pth')
    (copy / 'epoch_1.pth').unlink()  # as with the hook's out_dir
    assert find_checkpoint(str(copy)).path == str(checkpoint)


def test_without_a_whole_checkpoint_the_damage_is_named(tmp_path):
    assert find_checkpoint(str(tmp_path)) == (None, [])
    (tmp_path / 'iter_5.pth').write_bytes(b'PK')
    found = find_checkpoint(str(tmp_path))
    assert found.path is None
    assert 'iter_5.pth: it was cut off' in found.damaged[0]
