"""CIFAR-100 is checked by content and says what is wrong with a copy."""

import hashlib
import pickle
import re
import tarfile
import time

import numpy as np
import pytest
from mmengine.registry import DATASETS
from torch import distributed, multiprocessing

from frskd_mm.datasets.cifar100 import CIFAR100, read_split


def write_split(path, labels, images=None):
    """Write a pickle of the original layout."""
    if images is None:
        images = np.zeros((len(labels), 3072), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'wb') as file:
        pickle.dump({'data': images, 'fine_labels': list(labels)}, file)


@pytest.fixture
def complete_test_split():
    """Labels of a test split in another order than the original."""
    return np.random.default_rng(0).permutation(np.repeat(np.arange(100), 100))


def test_any_order_is_accepted_and_pixels_are_right(tmp_path, complete_test_split):
    images = np.zeros((10000, 3072), np.uint8)
    # Red, green, blue planes; row 1, column 2 of the first image.
    images[0, [34, 1024 + 34, 2048 + 34]] = (10, 20, 30)
    write_split(tmp_path / 'cifar-100-python/test', complete_test_split, images)
    dataset = DATASETS.build(
        dict(
            type='frskd_mm.CIFAR100',
            data_root=str(tmp_path),
            split='test',
            download=False,
        )
    )
    assert len(dataset) == 10000
    assert dataset[0]['img'].shape == (32, 32, 3)
    assert dataset[0]['img'][1, 2].tolist() == [10, 20, 30]
    assert dataset[0]['img'].sum() == 60
    assert [dataset[i]['gt_label'] for i in range(50)] == list(complete_test_split[:50])
    assert len(dataset.metainfo['classes']) == 100


class Runs:
    """What a copy of unknown origin may hold."""

    def __reduce__(self):
        return exec, ('raise SystemExit("run")',)


def test_a_copy_is_read_as_data_and_not_run(tmp_path):
    path = tmp_path / 'cifar-100-python/test'
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({'data': Runs(), 'fine_labels': []}))
    with pytest.raises(ValueError, match=r'builtins.exec is not allowed'):
        read_split(str(path), 'test')


def test_a_validation_part_shares_no_image(tmp_path, complete_test_split):
    images = np.zeros((10000, 3072), np.uint8)
    images[:, :2] = np.stack(np.divmod(np.arange(10000), 256), axis=1)
    write_split(tmp_path / 'cifar-100-python/test', complete_test_split, images)
    settings = dict(data_root=str(tmp_path), split='test', download=False)
    parts = [
        CIFAR100(num_per_class=70, **settings),
        CIFAR100(skip_per_class=70, num_per_class=20, **settings),
        CIFAR100(skip_per_class=90, **settings),
    ]
    kept = [tuple(data['img'].flat[[0, 3]]) for part in parts for data in part]
    assert len(kept) == len(set(kept)) == 10000
    for part, number in zip(parts, (70, 20, 10)):
        assert np.bincount(part.get_gt_labels()).tolist() == [number] * 100


def test_num_per_class_is_balanced(tmp_path, complete_test_split):
    write_split(tmp_path / 'cifar-100-python/test', complete_test_split)
    dataset = CIFAR100(
        data_root=str(tmp_path), split='test', num_per_class=3, download=False
    )
    counts = np.bincount(dataset.get_gt_labels(), minlength=100)
    assert counts.tolist() == [3] * 100


def test_label_noise_replaces_a_fraction_by_any_other_class(
    tmp_path, complete_test_split
):
    write_split(tmp_path / 'cifar-100-python/test', complete_test_split)
    settings = dict(data_root=str(tmp_path), split='test', download=False)
    clean = np.array(CIFAR100(**settings).get_gt_labels())
    noisy, again = (
        np.array(CIFAR100(label_noise=0.4, **settings).get_gt_labels())
        for _ in range(2)
    )
    assert (noisy == again).all()
    assert (noisy != clean).sum() == 4000
    shifts = np.bincount((noisy - clean) % 100, minlength=100)[1:]
    # 40 are expected of each: five standard deviations to either side.
    assert shifts.min() >= 10
    assert shifts.max() <= 72


@pytest.mark.parametrize(
    ('labels', 'message'),
    [
        (np.repeat(np.arange(100), 99), 'images are uint8 .9900, 3072. instead of'),
        (np.repeat(np.arange(1, 101), 100), r'labels span \[1, 100\]'),
        (np.sort(np.arange(10000) % 99), 'class 0 has 102 images instead of 100'),
    ],
)
def test_incomplete_copies_are_named(tmp_path, labels, message):
    write_split(tmp_path / 'test', labels)
    with pytest.raises(ValueError, match=message):
        read_split(str(tmp_path / 'test'), 'test')


def test_corrupt_file_is_named(tmp_path, complete_test_split):
    path = tmp_path / 'test'
    write_split(path, complete_test_split)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match='not a readable CIFAR-100 file'):
        read_split(str(path), 'test')


def test_missing_data_names_the_variable(tmp_path):
    with pytest.raises(FileNotFoundError, match='FRSKD_DATA'):
        CIFAR100(data_root=str(tmp_path), split='test', download=False)


def test_failed_download_names_the_variable(tmp_path, monkeypatch):
    # A port nobody listens at: the download fails at once, without a network.
    monkeypatch.setattr(CIFAR100, 'url', 'http://127.0.0.1:9/cifar-100-python.tar.gz')
    with pytest.raises(FileNotFoundError, match='download from .* failed.*FRSKD_DATA'):
        CIFAR100(data_root=str(tmp_path), split='test')


def load_beside_another(rank, folder, archive, md5):
    """Build the data set in one of two processes; write down what came of it."""
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/meeting', rank=rank, world_size=2
    )
    CIFAR100.url, CIFAR100.tgz_md5 = f'file://{archive}', md5
    copy = folder / 'data/cifar-100-python'
    while rank == 1 and archive.exists() and not copy.exists():
        time.sleep(0.001)  # looks when the main process has begun to extract
    try:
        found = str(len(CIFAR100(data_root=str(copy.parent), split='test')))
    except Exception as error:
        found = f'{type(error).__name__}: {error}'
    (folder / f'found{rank}').write_text(found)


def load_in_two_processes(folder, archive, md5=''):
    multiprocessing.spawn(load_beside_another, (folder, archive, md5), nprocs=2)
    return [(folder / f'found{rank}').read_text() for rank in range(2)]


def test_processes_wait_for_the_download(tmp_path, complete_test_split):
    write_split(tmp_path / 'cifar-100-python/test', complete_test_split)
    archive = tmp_path / 'archive.tar.gz'
    with tarfile.open(archive, 'w:gz') as file:
        file.add(tmp_path / 'cifar-100-python', 'cifar-100-python')
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    assert load_in_two_processes(tmp_path, archive, md5) == ['10000', '10000']


@pytest.mark.slow
def test_a_failed_download_ends_all_processes(tmp_path):
    found = load_in_two_processes(tmp_path, tmp_path / 'absent.tar.gz')
    assert re.match('FileNotFoundError: .*download from .* failed', found[0])
    assert re.match('FileNotFoundError: There is no CIFAR-100 at', found[1])


@pytest.mark.parametrize('num', [0, 101])
def test_impossible_part_is_refused(tmp_path, num):
    with pytest.raises(ValueError, match=r'\[1, 100\]'):
        CIFAR100(data_root=str(tmp_path), split='test', num_per_class=num)


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'train', 'test'"):
        CIFAR100(data_root=str(tmp_path), split='val')


def test_real_data(data_root):
    """The whole of CIFAR-100: channel means equal the published ones."""
    train = CIFAR100(
        data_root=str(data_root / 'cifar100'), split='train', download=False
    )
    assert len(train) == 50000
    images = np.stack([train[i]['img'] for i in range(len(train))])
    means = images.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(means, [129.304, 124.070, 112.434], atol=2e-3)
