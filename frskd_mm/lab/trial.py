"""Trying a model out: random data, and no weights to download."""

from importlib import import_module
from typing import Any, Dict, List, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, DefaultScope

from frskd_mm.utils.model import RGB

#: Annotated objects in a random image; COCO has 7.3 on average.
NUM_BOXES = 7


def without_weights(cfg: Any) -> None:
    """Remove what would load pretrained weights, in place.

    Args:
        cfg: Config of a model, or a part of one.
    """
    if isinstance(cfg, (list, tuple)):
        for part in cfg:
            without_weights(part)
    elif isinstance(cfg, dict):
        init_cfg = cfg.get('init_cfg')
        if isinstance(init_cfg, dict) and 'checkpoint' in init_cfg:
            cfg['init_cfg'] = None
        if isinstance(cfg.get('pretrained'), str):
            cfg['pretrained'] = None
        for part in cfg.values():
            without_weights(part)


def random_batch(
    cfg: Config, batch_size: int, image_size: Tuple[int, int], num_classes: int
) -> Any:
    """Return random images with annotations, as the config's data loader would.

    Args:
        cfg: Training config of mmpretrain, mmseg, mmdet or mmrotate.
        batch_size: N; pairs of images where the loader collates pairs.
        image_size: Height and width.
        num_classes: Labels are below it.

    Returns:
        What the data preprocessor takes: uint8 images (C, H, W), a list of them
        or one tensor, and N data samples of the host library.

    Raises:
        ValueError: If the config is of another library.
    """
    makers = {
        'mmpretrain': _classification_samples,
        'mmseg': _segmentation_samples,
        'mmdet': _detection_samples,
        'mmrotate': _detection_samples,
    }
    scope = cfg.get('default_scope')
    if scope not in makers:
        raise ValueError(
            f'Random batches are made for {", ".join(makers)}, but the config has '
            f'default_scope={scope!r}.'
        )
    make = makers[scope]
    with DefaultScope.overwrite_default_scope(scope):
        samples = make(cfg, batch_size, image_size, num_classes)
        loader = cfg.get('train_dataloader') or {}
        collate = dict(loader.get('collate_fn') or dict(type='pseudo_collate'))
        function = FUNCTIONS.get(collate.pop('type'))
        dataset = loader.get('dataset') or {}
        if dataset.get('type') == 'frskd_mm.PairDataset':
            partners = make(cfg, batch_size, image_size, num_classes)
            for sample, partner in zip(samples, partners):
                partner['data_samples'].set_metainfo(dict(partner=dataset['partner']))
                partner['data_samples'].set_gt_label(sample['data_samples'].gt_label)
            return function(list(zip(samples, partners)), **collate)
        return function(samples, **collate)


def _image_shape(cfg: Config, image_size: Tuple[int, int]) -> Tuple[int, int, int]:
    """Return (C, H, W) of a config's images, which need not have three channels."""
    student = cfg.model.get('student', cfg.model)
    preprocessor = student.get('data_preprocessor') or cfg.get('data_preprocessor')
    means = len((preprocessor or {}).get('mean') or ()) or RGB
    channels = (student.get('backbone') or {}).get('in_channels', means)
    return channels, *image_size


def _random_image(cfg: Config, image_size: Tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, _image_shape(cfg, image_size), dtype=torch.uint8)


def _classification_samples(
    cfg: Config, batch_size: int, image_size: Tuple[int, int], num_classes: int
) -> List[Dict[str, Any]]:
    from mmpretrain.structures import DataSample

    samples = []
    for index in range(batch_size):
        sample = DataSample(metainfo=dict(sample_idx=index))  # read by PS-KD
        sample.set_gt_label(torch.randint(num_classes, (1,)))
        samples.append(dict(inputs=_random_image(cfg, image_size), data_samples=sample))
    return samples


def _segmentation_samples(
    cfg: Config, batch_size: int, image_size: Tuple[int, int], num_classes: int
) -> List[Dict[str, Any]]:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(batch_size):
        labels = torch.randint(num_classes, (1, *image_size))
        sample = SegDataSample(
            gt_sem_seg=PixelData(data=labels),
            gt_edge_map=PixelData(data=labels.clamp(max=1)),  # read by PIDNet
            metainfo=dict(img_shape=image_size, ori_shape=image_size),
        )
        samples.append(dict(inputs=_random_image(cfg, image_size), data_samples=sample))
    return samples


def _detection_samples(
    cfg: Config, batch_size: int, image_size: Tuple[int, int], num_classes: int
) -> List[Dict[str, Any]]:
    scope, loader = cfg.default_scope, str(cfg.get('train_dataloader'))
    panoptic = 'LoadPanopticAnnotations' in loader
    # mmrotate makes boxes of its masks.
    masks = panoptic or (scope == 'mmdet' and "'with_mask': True" in loader)
    batch = import_module(f'{scope}.testing').demo_mm_inputs(
        batch_size=batch_size,
        image_shapes=_image_shape(cfg, image_size),
        num_items=[NUM_BOXES] * batch_size,
        num_classes=num_classes + 1,  # its labels start with 1
        with_mask=masks,
        with_semantic=panoptic or "'with_seg': True" in loader,
        use_box_type=True,
    )
    for sample in batch['data_samples']:
        sample.gt_instances.labels -= 1
    return [
        dict(inputs=image, data_samples=sample)
        for image, sample in zip(batch['inputs'], batch['data_samples'])
    ]


#: Parts of a model that name no number of classes, or not the data set's.
_NO_CLASSES = ('backbone', 'neck', 'rpn_head', 'auxiliary_head', 'data_preprocessor')


def find_num_classes(model: Any) -> int:
    """Return the number of classes that the heads of a model's config name.

    Args:
        model: Config of a student.

    Returns:
        int: 1 if none is named, as by a region proposal network.
    """
    return max(_named_classes(model), default=1)


def _named_classes(cfg: Any) -> List[int]:
    if isinstance(cfg, (list, tuple)):
        return [number for part in cfg for number in _named_classes(part)]
    if not isinstance(cfg, dict):
        return []
    own = [cfg['num_classes']] if isinstance(cfg.get('num_classes'), int) else []
    parts: Sequence[Any] = [cfg[key] for key in cfg if key not in _NO_CLASSES]
    return own + _named_classes(list(parts))
