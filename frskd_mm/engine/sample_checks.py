"""What can be wrong with a sample that a host's pipeline lets pass."""

import math
from typing import AbstractSet, Any, FrozenSet, Iterator, NamedTuple, Optional, Sequence

import numpy as np
from torch import Tensor

IGNORED = 255
PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
#: Where a PNG's header has the bits of a channel.
PNG_DEPTH = 24


class BadSample(ValueError):
    """What is wrong with a sample, of which only the data set knows the name."""


class Expected(NamedTuple):
    """What a model takes."""

    #: Channels that its normalisation expects, if it does.
    channels: Optional[int]
    #: Labels that segmentors' heads ignore, beside the data set's own.
    ignored: FrozenSet[int]


def check_sample(
    sample: Any, dataset: Any, expected: Expected, is_training: bool
) -> None:
    """Refuse a packed sample that model or metric could not use.

    Args:
        sample: What the pipeline gives. Anything but the hosts' dict of
            ``inputs`` and ``data_samples`` is let pass.
        dataset: The data set; its ``metainfo`` names the classes.
        expected: What the model takes.
        is_training: Whether label maps have to be of the images' size: in
            evaluations they keep the size that the image had.

    Raises:
        BadSample: If an image has another number of channels, or an annotation
            another size or classes that there are not.
    """
    if not isinstance(sample, dict) or 'data_samples' not in sample:
        return
    inputs, annotation = sample.get('inputs'), sample['data_samples']
    if not isinstance(inputs, Tensor) or inputs.dim() != 3:
        return
    channels = expected.channels
    if channels is not None and inputs.shape[0] != channels:
        raise BadSample(
            f'The image has {inputs.shape[0]} channel(s), but the mean of the '
            f'data_preprocessor has {channels} values'
        )
    if not hasattr(annotation, 'metainfo'):
        return
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    num_classes = len(classes) if classes is not None else None
    host = type(annotation).__module__.partition('.')[0]
    if host == 'mmseg' and 'gt_sem_seg' in annotation:
        _check_label_map(
            annotation, inputs, dataset, num_classes, is_training, expected.ignored
        )
    elif host == 'mmdet' and 'labels' in annotation.get('gt_instances', ()):
        _check_classes(annotation.gt_instances.labels, num_classes)
    elif host == 'mmpretrain' and annotation.get('gt_label') is not None:
        _check_classes(annotation.gt_label, num_classes)


def _check_label_map(
    annotation: Any,
    inputs: Tensor,
    dataset: Any,
    num_classes: Optional[int],
    is_training: bool,
    also_ignored: FrozenSet[int],
) -> None:
    labels = annotation.gt_sem_seg.data
    if labels.dim() != 3 or labels.shape[0] != 1:
        raise BadSample(
            f'The label map has shape {tuple(labels.shape)}: it holds colours, not '
            'one class a pixel. Convert it to a single channel of class numbers'
        )
    size, image = tuple(labels.shape[1:]), tuple(inputs.shape[1:])
    original = tuple(annotation.metainfo.get('ori_shape', image)[:2])
    if size not in ((image,) if is_training else (image, original)):
        raise BadSample(
            f'The label map is of {size[0]}x{size[1]} pixels, but the image of '
            f'{image[0]}x{image[1]}'
        )
    # Of wrappers the one within has it.
    own = [p.ignore_index for p in nested(dataset) if hasattr(p, 'ignore_index')]
    ignored = {own[0] if own else IGNORED}
    if is_training:  # metrics go by the data set's alone
        ignored |= also_ignored
    # With one class, a single logit tells it (1) from the rest (0).
    limit = None if num_classes is None else max(num_classes, 2)
    _check_classes(labels, limit, ignored)
    path = annotation.metainfo.get('seg_map_path')
    if path is not None and _uses_host_loader(dataset):
        _check_depth(path)


def nested(dataset: Any) -> Iterator[Any]:
    """Yield a data set and those that it wraps."""
    if not hasattr(type(dataset), '__getitem__') or not hasattr(dataset, '__dict__'):
        return
    yield dataset
    own = vars(dataset)
    for inner in (own.get('dataset'), own.get('_dataset'), *own.get('datasets', ())):
        yield from nested(inner)


def _check_classes(
    labels: Tensor, num_classes: Optional[int], ignored: AbstractSet[int] = frozenset()
) -> None:
    if num_classes is None:
        return
    wrong = (labels < 0) | (labels >= num_classes)
    for label in ignored:
        wrong &= labels != label
    if wrong.any():
        bad = labels[wrong].unique().tolist()
        raise BadSample(
            f'Its classes {bad[:10]} are out of range: the data set has '
            f'{num_classes}, numbered from 0'
        )


def _uses_host_loader(dataset: Any) -> bool:
    """Whether label maps are read by mmseg's own transform, into 8 bits."""
    transforms = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return any(
        f'{type(transform).__module__}.{type(transform).__name__}'
        == 'mmseg.datasets.transforms.loading.LoadAnnotations'
        for transform in transforms
    )


def _check_depth(path: str) -> None:
    """Refuse 16-bit labels that do not fit into the 8 bits that mmseg keeps."""
    try:
        with open(path, 'rb') as file:
            header = file.read(PNG_DEPTH + 1)
    except OSError:  # in another storage than the file system
        return
    if not header.startswith(PNG_SIGNATURE) or header[PNG_DEPTH] != 16:
        return
    import cv2

    highest = int(np.asarray(cv2.imread(path, cv2.IMREAD_UNCHANGED)).max())
    if highest > IGNORED:
        raise BadSample(
            f'Its label map has 16 bits and values up to {highest}, of which mmseg '
            'keeps the lowest 8 bits. Convert it to class numbers below 256'
        )


def check_annotation(dataset: Any, index: int) -> None:
    """Refuse boxes that hold nothing, from which a detector cannot learn.

    Boxes to be ignored may be of any form.

    Args:
        dataset: A data set of samples with ``instances``, as mmdet's are; those of
            others pass.
        index: Which sample.

    Raises:
        BadSample: If a box is not finite, ends before it begins or lies outside of
            the image. Boxes without area are common, and detectors take them.
    """
    if not _has_instances(dataset):
        return
    info = dataset.get_data_info(index)
    size = (info.get('width'), info.get('height'))
    for number, instance in enumerate(info.get('instances', ())):
        box = instance.get('bbox')
        if box is not None and len(box) == 4 and not instance.get('ignore_flag'):
            problem = _box_problem(box, size)
            if problem:
                raise BadSample(f'Box {number}, {[*box]}, {problem}')


def _has_instances(dataset: Any) -> bool:
    known = dataset.__dict__.get('_has_instances')
    if known is None:
        known = dataset._has_instances = 'instances' in dataset.get_data_info(0)
    return known


def _box_problem(box: Sequence[float], size: Sequence[Optional[float]]) -> str:
    x1, y1, x2, y2 = box
    width, height = size
    if not all(map(math.isfinite, box)):
        return 'is not finite'
    if x2 < x1 or y2 < y1:
        return 'ends before it begins; boxes are x1, y1, x2, y2'
    beyond = width is not None and height is not None and (x1 >= width or y1 >= height)
    if x2 <= 0 or y2 <= 0 or beyond:
        return f'lies outside of the image of {width}x{height} pixels'
    return ''
