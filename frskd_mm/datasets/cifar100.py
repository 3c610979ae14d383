"""CIFAR-100 from any complete copy."""

import os.path as osp
from typing import Any, Callable, Dict, List, Optional, Sequence

import mmengine.dist as dist
import numpy as np
from mmpretrain.datasets import CIFAR100 as PretrainCIFAR100
from mmpretrain.datasets.utils import download_and_extract_archive
from torch.utils.data import get_worker_info

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import FRACTION, check_arguments, one_of
from frskd_mm.utils.checkpoint_loading import DataPickle

from .device_batches import DeviceBatches
from .label_noise import another_class

NUM_CLASSES = 100
PER_CLASS = {'train': 500, 'test': 100}


@DATASETS.register_module()
class CIFAR100(PretrainCIFAR100):
    """CIFAR-100, checked by its content instead of the files' MD5.

    mmpretrain's class insists on the original files byte for byte. This one
    accepts any complete copy in the original layout, for instance with its
    rows in another order: 50,000 training and 10,000 test images of 3 * 32 *
    32 bytes, 500 and 100 of each of the 100 classes. The original is
    downloaded when the folder is absent, by the main process for all.

    Args:
        data_root (str): Folder that contains ``cifar-100-python``.
        split (str): 'train' or 'test'. Defaults to 'train'.
        num_per_class (int, optional): Keep only so many images of each class, in
            the files' order, for experiments on a class-balanced part. Defaults
            to all.
        skip_per_class (int): Leave out so many images of each class before that,
            for a validation part that shares no image with the training part.
            Defaults to 0.
        label_noise (float): Fraction of the images whose label is replaced by that
            of another class, each as likely: symmetric noise, the same in every
            run, for experiments on wrong annotations. Defaults to 0.
        batches_on (str, optional): Device, such as 'cuda', that keeps all images and
            augments them a batch at a time, see ``DeviceBatches``, for GPUs that a
            pipeline on the CPU cannot keep busy. The data loader then needs
            ``num_workers=0`` and ``collate_fn=dict(type='frskd_mm.keep_batch')``.
            None by default.
        **kwargs: Other arguments of mmpretrain's ``CIFAR100``.

    Raises:
        ValueError: If the copy is incomplete or corrupt, or ``num_per_class``
            or ``skip_per_class`` is out of range. The message says what is wrong.
        FileNotFoundError: If there is no copy and ``download=False``, or the
            download failed.
    """

    @check_arguments(split=one_of(*PER_CLASS), label_noise=FRACTION)
    def __init__(
        self,
        data_root: str = '',
        split: str = 'train',
        num_per_class: Optional[int] = None,
        skip_per_class: int = 0,
        label_noise: float = 0.0,
        batches_on: Optional[str] = None,
        **kwargs: Any,
    ) -> None:
        there = PER_CLASS[split]
        if not 0 <= skip_per_class < there:
            raise ValueError(
                f'skip_per_class must lie in [0, {there - 1}] for the {split} split, '
                f'got {skip_per_class}.'
            )
        left = there - skip_per_class
        if num_per_class is not None and not 1 <= num_per_class <= left:
            after = f' after skip_per_class={skip_per_class}' if skip_per_class else ''
            raise ValueError(
                f'num_per_class must lie in [1, {left}] for the {split} split{after}, '
                f'got {num_per_class}.'
            )
        self.first_per_class = skip_per_class
        self.end_per_class = skip_per_class + (num_per_class or left)
        self.label_noise = label_noise
        self.batches_on = batches_on
        self._batches: Optional[DeviceBatches] = None
        super().__init__(data_root=data_root, split=split, **kwargs)

    @property
    def __getitems__(self) -> Optional[Callable[[Sequence[int]], Dict[str, Any]]]:
        """Returns a whole batch of indices, for PyTorch's data loader, if it shall."""
        if self.batches_on is None:
            return None
        if self._batches is None:
            if get_worker_info() is not None:
                raise ValueError(
                    'batches_on keeps the images in the memory of one process: set '
                    'num_workers=0 of the data loader.'
                )
            items = [self.get_data_info(index) for index in range(len(self))]
            self._batches = DeviceBatches(
                np.stack([item['img'] for item in items]),
                [item['gt_label'] for item in items],
                self.pipeline.transforms,
                self.batches_on,
            )
        return self._batches

    def load_data_list(self) -> List[dict]:
        """Read and check the split.

        Returns:
            list[dict]: ``img`` (32, 32, 3) uint8 RGB and ``gt_label``.
        """
        folder = osp.join(self.data_prefix['root'], self.base_folder)
        try:
            if self.download and dist.is_main_process() and not osp.isdir(folder):
                self._download(folder)
        finally:  # after a failure, too: the other processes wait
            dist.barrier()
        if not osp.isdir(folder):
            raise FileNotFoundError(
                f'There is no CIFAR-100 at {osp.abspath(folder)}. Set the '
                'environment variable FRSKD_DATA to the folder that contains '
                'cifar100/cifar-100-python, or allow the download with '
                'download=True, to a folder that all processes share.'
            )
        images, labels = read_split(osp.join(folder, self.split), self.split)
        seen = np.zeros(NUM_CLASSES, dtype=int)
        data_list = []
        for image, label in zip(images, labels):
            if self.first_per_class <= seen[label] < self.end_per_class:
                data_list.append({'img': image, 'gt_label': int(label)})
            seen[label] += 1
        self._add_label_noise(data_list)
        return data_list

    def _add_label_noise(self, data_list: List[dict]) -> None:
        """Replace labels by others, of a fixed choice of images."""
        rng = np.random.default_rng(0)
        number = round(self.label_noise * len(data_list))
        for index in rng.permutation(len(data_list))[:number]:
            item = data_list[index]
            item['gt_label'] = another_class(item['gt_label'], NUM_CLASSES, rng)

    def _download(self, folder: str) -> None:
        try:
            download_and_extract_archive(
                self.url,
                self.data_prefix['root'],
                filename=self.filename,
                md5=self.tgz_md5,
            )
        except OSError as error:
            raise FileNotFoundError(
                f'There is no CIFAR-100 at {osp.abspath(folder)} and its '
                f'download from {self.url} failed ({error}). Set the '
                'environment variable FRSKD_DATA to the folder that contains '
                'cifar100/cifar-100-python.'
            ) from error


def read_split(path: str, split: str) -> 'tuple[np.ndarray, np.ndarray]':
    """Read one pickle of the original layout as data, and check its content.

    Args:
        path: File to read.
        split: 'train' or 'test'.

    Returns:
        tuple: Images (N, 32, 32, 3) uint8 RGB and fine labels (N, ).

    Raises:
        ValueError: If it is not a complete split; the message says why.
    """
    try:
        with open(path, 'rb') as file:
            entry: Dict[str, Any] = DataPickle.load(file, encoding='latin1')
        data, labels = np.asarray(entry['data']), np.asarray(entry['fine_labels'])
    except Exception as error:
        raise ValueError(
            f'{path} is not a readable CIFAR-100 file '
            f'({type(error).__name__}: {error}). Delete the folder to download it '
            'again, or copy a complete one there.'
        ) from error
    per_class = PER_CLASS[split]
    expected = (NUM_CLASSES * per_class, 3 * 32 * 32)
    problems = []
    if data.dtype != np.uint8 or data.shape != expected:
        problems.append(
            f'images are {data.dtype} {data.shape} instead of uint8 {expected}'
        )
    if labels.shape != expected[:1]:
        problems.append(f'{labels.size} labels instead of {expected[0]}')
    elif labels.min() < 0 or labels.max() >= NUM_CLASSES:
        problems.append(
            f'labels span [{labels.min()}, {labels.max()}] instead of '
            f'[0, {NUM_CLASSES - 1}]'
        )
    else:
        counts = np.bincount(labels, minlength=NUM_CLASSES)
        wrong = np.flatnonzero(counts != per_class)
        if wrong.size:
            problems.append(
                f'class {wrong[0]} has {counts[wrong[0]]} images instead of '
                f'{per_class} ({wrong.size} classes are off)'
            )
    if problems:
        raise ValueError(
            f'{path} is not a complete CIFAR-100 {split} split: '
            f'{"; ".join(problems)}. Delete the folder to download it again, or '
            'copy a complete one there.'
        )
    images = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
