"""The student as a graph that runs without OpenMMLab: ONNX and torch.export."""

import inspect
import json
import os
import os.path as osp
import re
import tempfile
import warnings
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from frskd_mm.models.distilled import is_distilled
from frskd_mm.models.tasks import (
    ClassificationTask,
    DetectionTask,
    SegmentationTask,
    task_of,
)
from frskd_mm.utils.checkpoint import weights_of
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.model import input_channels
from frskd_mm.utils.optional import require_packages
from frskd_mm.utils.random import isolated_rng

from .config import check_checkpoint_file, loads_files, outer_pipeline
from .export import load_student, student_weights
from .wrap import student_config

#: Ending of the file, by format.
ENDINGS = {'onnx': '.onnx', 'torch': '.pt2'}
TASKS = {
    ClassificationTask: 'classification',
    SegmentationTask: 'segmentation',
    DetectionTask: 'detection',
}
#: Largest difference to PyTorch that an export may have, absolute and relative.
TOLERANCE = 1e-4
#: Images of the example: of one, the number of images would be a constant.
BATCH = 2
#: Key of the metadata in the file of torch.export.
EXTRA_FILE = 'frskd_mm.json'
OPSET = 18


class Exported(NamedTuple):
    """What :func:`export_graph` wrote."""

    path: str
    #: Names of the graph's outputs.
    outputs: List[str]
    #: Largest absolute difference to PyTorch, by output.
    differences: Dict[str, float]
    metadata: Dict[str, str]


class Graph(nn.Module):
    """The part of a student that is exported: from images to its head's outputs.

    Args:
        model: A plain student in eval mode.
        task: From :data:`TASKS`.
    """

    def __init__(self, model: BaseModel, task: str) -> None:
        super().__init__()
        self.model = model
        self.task = task

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Return logits, or a detector's raw maps.

        Args:
            images: (N, C, H, W), preprocessed as the metadata say.

        Returns:
            tuple[Tensor]: For classification logits (N, classes), for segmentation
            logits (N, classes, H, W), for detection the head's maps, one kind after
            the other, each from fine to coarse.
        """
        if self.task == 'segmentation':
            metas = [dict(img_shape=images.shape[2:])]
            return (self.model.encode_decode(images, metas),)
        return tuple(_flat(self.model(images, mode='tensor')))


def export_graph(
    cfg: Config,
    checkpoint: str,
    out: str,
    image_size: Tuple[int, int],
    format: str = 'onnx',
) -> Exported:
    """Write the student as one file, and compare it with PyTorch.

    The graph is that of the plain student: nothing of the self-teacher is in it. It
    takes a batch of any number of preprocessed images (N, C, H, W) of one size. The
    classes, what has to be done to an image and what the outputs are stand in the
    file's metadata.

    Args:
        cfg: Config of a distilled model or of a plain one.
        checkpoint: Of its training, or an exported student's.
        out: File to write, ending in '.onnx' or '.pt2'; its folder is created.
        image_size: Height and width of the images.
        format: 'onnx', or 'torch' for ``torch.export``.

    Returns:
        Exported: The file and how far it is from PyTorch, at most 1e-4.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is not of this config, the model is a detector
            whose head needs more than feature maps, the ending is not the format's,
            or the file's outputs differ from PyTorch's by more than 1e-4.
        ImportError: If onnx, onnxscript or onnxruntime are needed and missing.
    """
    _check(format, out)
    plain = student_config(cfg) if is_distilled(cfg.model) else cfg
    model, meta = _load(cfg, plain, checkpoint)
    task = TASKS[type(task_of(model))]
    _check_detector(model, task)
    with DefaultScope.overwrite_default_scope(plain.get('default_scope')):
        with isolated_rng():
            torch.manual_seed(0)
            channels = input_channels(model, image_size)
            images = torch.randn(BATCH, channels, *image_size)
        graph = Graph(model, task).eval()
        with torch.no_grad():
            expected = graph(images)
            program = _trace(graph, images)
        names = _output_names(model, task, images)
        metadata = _metadata(plain, meta, task, names, image_size)
        os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
        write, run = FORMATS[format]
        with tempfile.TemporaryDirectory(dir=osp.dirname(osp.abspath(out))) as folder:
            # Only a file that was compared gets its name.
            part = osp.join(folder, 'part' + ENDINGS[format])
            write(program, images, names, metadata, part)
            differences = _compare(expected, run(part, images), names)
            os.replace(part, out)
    return Exported(out, names, differences, metadata)


def _check(format: str, out: str) -> None:
    if format not in ENDINGS:
        raise ValueError(
            f'There is no format {format!r} to export to. There are: '
            f'{", ".join(ENDINGS)}.'
        )
    if not out.endswith(ENDINGS[format]) or osp.isdir(out):
        raise ValueError(
            f'OUT is the file to write, for the format {format} with the ending '
            f'{ENDINGS[format]}, not {out}.'
        )
    if 'dynamic_shapes' not in inspect.signature(torch.onnx.export).parameters:
        raise ValueError(
            f'Exporting a graph needs torch 2.5 or newer, not {torch.__version__}. '
            'Export the checkpoint instead (without --format) and convert it with '
            'mmdeploy, or where a newer torch is installed.'
        )
    if format == 'onnx':
        names = dict(onnx='onnx', onnxscript='onnxscript', onnxruntime='onnxruntime')
        require_packages('Exporting to ONNX', **names)


def _load(cfg: Config, plain: Config, checkpoint: str) -> Tuple[BaseModel, dict]:
    """Return the plain student with its weights, and the checkpoint's meta."""
    check_checkpoint_file(checkpoint)
    with checkpoints_as_data(cfg):
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    model = load_student(plain, student_weights(weights_of(loaded)), checkpoint)
    return revert_sync_batchnorm(model).eval(), loaded.get('meta', {})


def _check_detector(model: BaseModel, task: str) -> None:
    """Refuse detectors whose outputs are not made of feature maps alone."""
    if task != 'detection':
        return
    from mmdet.models.detectors import DetectionTransformer, SingleStageDetector

    is_dense = isinstance(model, SingleStageDetector)
    if not is_dense or isinstance(model, DetectionTransformer):
        raise ValueError(
            f'{type(model).__name__} has no heads that read feature maps alone, which '
            'is what is exported of a detector (RetinaNet, FCOS, GFL, YOLOX and so '
            'on). Export the checkpoint (without --format) and convert it with '
            'mmdeploy: docs/deployment.md.'
        )


def _flat(outputs: Any) -> List[Tensor]:
    """Return the tensors of nested tuples and lists."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in _flat(part)]


def _trace(graph: Graph, images: Tensor) -> Any:
    batch = torch.export.Dim('batch', min=1, max=2**16)
    return torch.export.export(graph, (images,), dynamic_shapes=dict(images={0: batch}))


def _output_names(model: BaseModel, task: str, images: Tensor) -> List[str]:
    """Return names as 'cls_score_0': what a head gives, and the level."""
    if task != 'detection':
        return ['logits']
    with torch.no_grad():
        kinds = model(images, mode='tensor')
    head = type(model.bbox_head)
    parameters = list(inspect.signature(head.loss_by_feat).parameters)[1:]
    known = [re.sub('(?<=ss)es$|s$', '', name) for name in parameters]
    return [
        f'{name}_{level}'
        for name, maps in zip(known, kinds)
        for level in range(len(_flat(maps)))
    ]


def _metadata(
    cfg: Config,
    meta: Dict[str, Any],
    task: str,
    outputs: Sequence[str],
    image_size: Tuple[int, int],
) -> Dict[str, str]:
    """Return what whoever runs the graph has to know, each as JSON."""
    # As MMEngine's runner: the one at the top is for models without their own.
    preprocessor = dict(
        cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    )
    to_rgb = preprocessor.get('to_rgb') or preprocessor.get('bgr_to_rgb')
    pads = ('pad_size_divisor', 'size', 'size_divisor', 'pad_value', 'pad_val')
    test = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = test.get('dataset') or {}
    dataset_meta = meta.get('dataset_meta') or {}
    values = dict(
        task=task,
        classes=list(dataset_meta.get('classes') or dataset_meta.get('CLASSES') or []),
        image_size=list(image_size),
        preprocessing=dict(
            # OpenMMLab's loaders give BGR; data in memory may be RGB already.
            channels='RGB' if to_rgb or not loads_files(dataset) else 'BGR',
            mean=preprocessor.get('mean'),
            std=preprocessor.get('std'),
            layout='NCHW',
            padding={key: preprocessor[key] for key in pads if key in preprocessor},
            pipeline=_pipeline_of(dataset),
        ),
        outputs=list(outputs),
    )
    return {f'frskd_mm.{key}': json.dumps(value) for key, value in values.items()}


def _pipeline_of(dataset: Any) -> List[Any]:
    """Return the test pipeline as plain values."""
    steps = [dict(step) for step in outer_pipeline(dataset)]
    return json.loads(json.dumps(steps, default=str))


def _write_onnx(
    program: Any,
    images: Tensor,
    outputs: Sequence[str],
    metadata: Dict[str, str],
    path: str,
) -> None:
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        written: Any = torch.onnx.export(
            program,
            (images,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=['images'],
            output_names=list(outputs),
        )
    model = written.model_proto
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _run_onnx(path: str, images: Tensor) -> List[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    return [torch.from_numpy(x) for x in session.run(None, {'images': images.numpy()})]


def _write_program(
    program: Any,
    images: Tensor,
    outputs: Sequence[str],
    metadata: Dict[str, str],
    path: str,
) -> None:
    torch.export.save(program, path, extra_files={EXTRA_FILE: json.dumps(metadata)})


def _run_program(path: str, images: Tensor) -> List[Tensor]:
    with torch.no_grad():
        return _flat(torch.export.load(path).module()(images))


#: How a format is written and run.
FORMATS: Dict[str, Tuple[Callable, Callable]] = {
    'onnx': (_write_onnx, _run_onnx),
    'torch': (_write_program, _run_program),
}


def _compare(
    expected: Sequence[Tensor], found: Sequence[Tensor], names: Sequence[str]
) -> Dict[str, float]:
    """Return the largest difference of each output.

    Raises:
        ValueError: If one is larger than :data:`TOLERANCE`.
    """
    if not len(expected) == len(found) == len(names):
        raise ValueError(
            f'The exported graph has {len(found)} outputs, the model {len(expected)}.'
        )
    differences = {}
    for name, want, have in zip(names, expected, found):
        difference = (want - have).abs()
        differences[name] = float(difference.max())
        if not bool((difference <= TOLERANCE * (1 + want.abs())).all()):
            raise ValueError(
                f'The exported graph differs from PyTorch: {name} by '
                f'{differences[name]:.2g}, more than {TOLERANCE:g}. Nothing was '
                'written. Please report the model.'
            )
    return differences


def read_metadata(path: str) -> Dict[str, Any]:
    """Return the metadata of a file that :func:`export_graph` wrote.

    Args:
        path: An '.onnx' or '.pt2'.

    Returns:
        dict: task, classes, image_size, preprocessing and outputs.
    """
    if path.endswith(ENDINGS['onnx']):
        import onnx

        model = onnx.load(path, load_external_data=False)
        texts = {entry.key: entry.value for entry in model.metadata_props}
    else:
        extra: Dict[str, Optional[str]] = {EXTRA_FILE: ''}
        torch.export.load(path, extra_files=extra)
        texts = json.loads(str(extra[EXTRA_FILE]))
    return {
        key.split('.', 1)[1]: json.loads(value)
        for key, value in texts.items()
        if key.startswith('frskd_mm.')
    }
