"""Predictions of a checkpoint on images of any kind."""

import os.path as osp
from copy import deepcopy
from glob import escape, glob
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from frskd_mm.models.distilled import DISTILLER_PREFIX, Distilled, is_distilled
from frskd_mm.utils.checkpoint import (
    find_loading_misfits,
    summarize_misfits,
    weights_of,
)
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.environment import require_cuda_ops
from frskd_mm.utils.explain import explained
from frskd_mm.utils.model import build_model
from frskd_mm.utils.scope import type_name
from frskd_mm.visualization.images import Seen, is_bgr

from .config import (
    check_checkpoint_file,
    dataset_class,
    inner_dataset,
    loads_files,
    outer_pipeline,
)
from .export import student_weights
from .runs import AUXILIARY_PREFIX
from .wrap import student_config

#: What a folder's images end with.
IMAGE_ENDINGS = ('.bmp', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: How many classes of a classifier are written down.
TOP = 5


def find_images(paths: Sequence[str]) -> List[str]:
    """Return the image files that are named, and those in folders, sorted there.

    Raises:
        FileNotFoundError: If there is no such file, or a folder without images.
        ValueError: If a file is no image.
    """
    found: List[str] = []
    for path in paths:
        if osp.isdir(path):
            inside = sorted(
                name
                for name in glob(osp.join(escape(path), '**', '*'), recursive=True)
                if name.lower().endswith(IMAGE_ENDINGS)
            )
            if not inside:
                raise FileNotFoundError(
                    f'The folder {path} has no images ({", ".join(IMAGE_ENDINGS)}).'
                )
            found += inside
        elif not osp.isfile(path):
            raise FileNotFoundError(f'There is no image {path}.')
        else:
            found.append(path)
    for path in found:
        if not cv2.haveImageReader(path):
            raise ValueError(f'{path} is no image that OpenCV can read.')
    return list(dict.fromkeys(found))


class Predictor:
    """A model with its checkpoint, and what turns images into its inputs.

    Args:
        cfg (Config): Config of the checkpoint; of a distilled model or of a plain
            one. It needs a ``test_dataloader``.
        checkpoint (str): Training checkpoint or exported student.
        self_teacher (bool): Keep the self-teacher, too.
        size (tuple[int, int], optional): Height and width that images are resized
            to. By default that is left to the test pipeline; where it loads no
            files, images get the size of those in the test set.
        device (str, optional): Where to compute; the runner's choice by default.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is of another model, or there is no
            self-teacher in it although it is wanted.
    """

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        self_teacher: bool = False,
        size: Optional[Tuple[int, int]] = None,
        device: Optional[str] = None,
    ) -> None:
        check_checkpoint_file(checkpoint)
        if not cfg.get('test_dataloader') or not isinstance(cfg.get('model'), dict):
            raise ValueError(
                f'{cfg.filename or "The config"} has no model or no test_dataloader, '
                'whose pipeline prepares the images. Give a complete config.'
            )
        require_cuda_ops(cfg.get('default_scope'))
        distilled = is_distilled(cfg.model)
        if self_teacher and not distilled:
            raise ValueError(
                'The config is of a plain student, which has no self-teacher. Pass '
                'the config that the distilled model was trained with.'
            )
        own = cfg if self_teacher or not distilled else student_config(cfg)
        self.cfg = own
        self.scope = own.get('default_scope')
        self.size = size
        device = device or get_device()
        with checkpoints_as_data(cfg):
            loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
        self.model = _load(own, weights_of(loaded), checkpoint, self_teacher).to(device)
        self.meta = self._find_meta(loaded.get('meta', {}))
        self.model.dataset_meta = self.meta
        self._pipeline: Optional[Callable[[str], Tuple[Any, Tuple[int, int]]]] = None
        self._dataset: Any = None

    @property
    def dataset(self) -> Any:
        """The config's test set, built when it is asked for."""
        if self._dataset is None:
            with DefaultScope.overwrite_default_scope(self.scope), explained(self.cfg):
                dataset = deepcopy(self.cfg.test_dataloader.dataset)
                self._dataset = DATASETS.build(dataset)
        return self._dataset

    @property
    def reads_files(self) -> bool:
        """Whether the test pipeline loads image files."""
        return loads_files(self.cfg.test_dataloader.dataset)

    @property
    def is_bgr(self) -> bool:
        """Whether images enter the model's preprocessing as BGR."""
        return is_bgr(self.model, self.reads_files)

    def prepare(self) -> Callable[[str], Tuple[Any, Tuple[int, int]]]:
        """Return the test pipeline for files, built when it is first asked for."""
        if self._pipeline is None:
            self._pipeline = self._make_pipeline()
        return self._pipeline

    def read(self, path: str) -> Seen:
        """Read an image file through the test pipeline.

        Raises:
            ValueError: If it is damaged.
        """
        pipeline = self.prepare()
        with DefaultScope.overwrite_default_scope(self.scope):
            packed, size = pipeline(path)
            return Seen(packed, path, size)

    def check_index(self, index: int) -> None:
        """Require that the test set has an image of this number.

        Raises:
            ValueError: If it has not.
        """
        if not 0 <= index < len(self.dataset):
            raise ValueError(
                f'The test set has images 0 to {len(self.dataset) - 1}, not {index}.'
            )

    def take(self, index: int) -> Seen:
        """Take an image of the test set."""
        with DefaultScope.overwrite_default_scope(self.scope):
            return Seen(self.dataset[index], f'test image {index}')

    @torch.no_grad()
    def predict(self, seen: Seen) -> Any:
        """Return the student's prediction, a data sample of the host library."""
        with DefaultScope.overwrite_default_scope(self.scope):
            batch = pseudo_collate([deepcopy(seen.packed)])
            (sample,) = self.model.test_step(batch)
        return sample.cpu()

    def _steps(self) -> List[dict]:
        return outer_pipeline(self.cfg.test_dataloader.dataset)

    def _make_pipeline(self) -> Callable[[str], Tuple[Any, Tuple[int, int]]]:
        """Return the test pipeline for files: it loads no annotations.

        What it returns beside the packed image is the file's height and width.
        """
        steps = self._steps()
        loaders = [
            step for step in steps if type_name(step.get('type')) == 'LoadImageFromFile'
        ]
        own = [
            step
            for step in steps
            if not type_name(step.get('type')).startswith(('Load', 'Filter'))
        ]
        with DefaultScope.overwrite_default_scope(self.scope), explained(self.cfg):
            load = TRANSFORMS.build(dict(loaders[0])) if loaders else None
            pipeline = Compose([dict(step) for step in own])
        size = self.size
        if size is None and load is None:
            # These images are in memory, all of one size, and nothing resizes them.
            height, width = self.dataset[0]['inputs'].shape[-2:]
            size = (height, width)

        def run(path: str) -> Tuple[Any, Tuple[int, int]]:
            image = cv2.imread(path, cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f'{path} is damaged: OpenCV cannot read it.')
            results: Dict[str, Any] = dict(img_path=path, img_id=0)
            if load is not None:
                results = load(results)
                image = results['img']
            elif not self.is_bgr:
                image = image[..., ::-1]
            height, width = image.shape[:2]
            if size is not None:
                image = cv2.resize(np.ascontiguousarray(image), size[::-1])
            results.update(
                img=np.ascontiguousarray(image),
                img_shape=image.shape[:2],
                ori_shape=image.shape[:2],
                sample_idx=0,
                instances=[],
                seg_fields=[],
                reduce_zero_label=False,
            )
            return pipeline(results), (height, width)

        return run

    def _find_meta(self, meta: Dict[str, Any]) -> Dict[str, Any]:
        """Return classes and palette: the checkpoint's, else the data set's."""
        found = {k.lower(): v for k, v in (meta.get('dataset_meta') or {}).items()}
        dataset = inner_dataset(self.cfg.test_dataloader.dataset)
        own = {
            **getattr(dataset_class(dataset, self.scope), 'METAINFO', {}),
            **(dataset.get('metainfo') or {}),
        }
        merged = {**{k.lower(): v for k, v in own.items()}, **found}
        return {k: v for k, v in merged.items() if v is not None}


def _load(
    cfg: Config, weights: Dict[str, Tensor], checkpoint: str, self_teacher: bool
) -> BaseModel:
    """Build the model and load what it has of the weights, strictly."""
    model = build_model(cfg)
    ignored = [AUXILIARY_PREFIX, *([] if self_teacher else [DISTILLER_PREFIX])]
    if self_teacher and not any(key.startswith(DISTILLER_PREFIX) for key in weights):
        raise ValueError(
            f'{checkpoint} holds the student alone, without its self-teacher. Pass a '
            'training checkpoint.'
        )
    misfits = summarize_misfits(find_loading_misfits(model, weights, ignored))
    if misfits:
        raise ValueError(
            f'{checkpoint} is of another model than the config: {misfits}. Give the '
            'config that it was trained with, or the file of this one.'
        )
    if not isinstance(model, Distilled):
        weights = student_weights(weights)
    model.load_state_dict(weights, strict=False)  # auxiliary heads may be missing
    return model.eval()


def as_record(
    model: BaseModel,
    sample: Any,
    score_thr: float = 0.0,
    size: Optional[Tuple[int, int]] = None,
) -> Dict[str, Any]:
    """Return a prediction for JSON.

    Args:
        model: Whose it is; has ``dataset_meta``.
        sample: The host's data sample, on the CPU.
        score_thr: Boxes that score less are left out.
        size: Height and width of the file, in whose pixels boxes and masks are
            given; by default in those of the image that the model was given.

    Returns:
        dict[str, Any]: Of a classifier the best classes with their scores, of a
        segmentor the share of each class that is there, of a detector the objects,
        with boxes as (left, top, right, bottom).
    """
    names = model.dataset_meta.get('classes')

    def name_of(label: int) -> str:
        return str(names[label]) if names and label < len(names) else str(label)

    if 'pred_score' in sample:
        best = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
        return dict(
            classes=[
                dict(label=label, name=name_of(label), score=score)
                for score, label in zip(best.values.tolist(), best.indices.tolist())
            ]
        )
    if 'pred_sem_seg' in sample:
        labels, counts = sample.pred_sem_seg.data.unique(return_counts=True)
        total = int(counts.sum())
        return dict(
            regions=[
                dict(label=label, name=name_of(label), share=count / total)
                for label, count in zip(labels.tolist(), counts.tolist())
            ]
        )
    found = sample.pred_instances
    found = found[found.scores >= score_thr]
    seen = sample.metainfo.get('ori_shape', size)
    rows, columns = (s / o for s, o in zip(size, seen)) if size else (1.0, 1.0)
    boxes = found.bboxes
    if (rows, columns) != (1.0, 1.0):
        # Rotated ones have an angle besides.
        factors = [columns, rows, columns, rows, *[1.0] * (boxes.shape[-1] - 4)]
        boxes = boxes * torch.tensor(factors)
    objects = [
        dict(label=label, name=name_of(label), score=score, box=box)
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), boxes.tolist()
        )
    ]
    if 'masks' in found:
        for entry, mask in zip(objects, found.masks):
            entry['mask'] = _run_lengths(resize_labels(mask.numpy(), size))
    return dict(objects=objects)


def resize_labels(labels: np.ndarray, size: Optional[Tuple[int, int]]) -> np.ndarray:
    """Return a label map or mask (H, W) at another size, by its nearest pixels."""
    if size is None or labels.shape == tuple(size):
        return labels
    resized = cv2.resize(
        labels.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST
    )
    return resized.astype(labels.dtype)


def _run_lengths(mask: np.ndarray) -> Dict[str, Any]:
    """Return a mask as COCO writes it."""
    import pycocotools.mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=encoded['size'], counts=encoded['counts'].decode())
