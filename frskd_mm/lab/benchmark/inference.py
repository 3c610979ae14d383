"""What the exported student costs and predicts, beside the plain one."""

import os.path as osp
import tempfile
from typing import Any, Dict, List, Mapping, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from frskd_mm.engine.export import export_student, load_student
from frskd_mm.utils.checkpoint import weights_of
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.model import count_parameters

from .plan import Arm
from .rounds import Spread, paired_ratio, run_in_turns
from .steps import TrainingStep, Workload, now


class PredictionStep:
    """Prediction of a batch as in a test loop, ``model.test_step``."""

    def __init__(self, model: BaseModel, training: TrainingStep) -> None:
        self.model = model
        self.training = training

    def __call__(self) -> Dict[str, float]:
        """Predict; return its seconds as 'total'."""
        batch = self.training.fresh_batch()
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.training.scope):
            began = now()
            self.model.test_step(batch)
            return dict(total=now() - began)

    def outputs(self) -> List[Tensor]:
        """Return the tensors that the model gives for the batch."""
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.training.scope):
            batch = self.model.data_preprocessor(self.training.fresh_batch(), False)
            return flatten(self.model(**batch, mode='tensor'))


def measure_inference(
    arm: Arm, plain: Arm, workload: Workload, rounds: int, warmup: int
) -> Dict[str, Any]:
    """Export a distilled model's student and compare it with the plain one.

    The distilled model is trained for a step, so that running statistics are not
    the initial ones, saved, and exported as ``frskd export`` does it.
    The exported config and weights make one model. The plain student's own config
    makes another, which loads the exported weights strictly. The two and the
    distilled model predict in turns.

    Args:
        arm: The distilled model.
        plain: Its plain student.
        workload: Batch and image size.
        rounds: Measured predictions of each.
        warmup: Predictions of each before them.

    Returns:
        dict: Parameters, seconds and their ratio to the plain student's, and
        whether the outputs are equal bit for bit.
    """
    training = TrainingStep(arm.cfg, workload, arm.num_classes)
    training()
    distilled = training.model.eval().to(memory_format=torch.contiguous_format)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = osp.join(folder, 'distilled.pth')
        save_checkpoint(dict(state_dict=distilled.state_dict()), checkpoint)
        out, config = export_student(arm.cfg, checkpoint, osp.join(folder, 'out.pth'))
        models = dict(
            plain=_load(plain.cfg, out),
            exported=_load(Config.fromfile(config), out),
            distilled=distilled,
        )
    steps = {name: PredictionStep(model, training) for name, model in models.items()}
    outputs = {name: step.outputs() for name, step in steps.items()}
    seconds = run_in_turns(steps, rounds, warmup)
    return dict(
        name=arm.name,
        parameters={name: count_parameters(models[name]) for name in models},
        seconds={
            name: Spread.of([s['total'] for s in seconds[name]]).as_dict()
            for name in models
        },
        ratio=paired_ratio(seconds['exported'], seconds['plain']).as_dict(),
        identical=are_identical(outputs),
    )


def _load(cfg: Config, checkpoint: str) -> BaseModel:
    with checkpoints_as_data(cfg):
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    model = revert_sync_batchnorm(load_student(cfg, weights_of(loaded), checkpoint))
    return model.to(get_device()).eval()


def flatten(outputs: Any) -> List[Tensor]:
    """Return the tensors of nested lists, dictionaries and data elements."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    elif hasattr(outputs, 'all_values'):  # an InstanceData or DataSample
        outputs = outputs.all_values()
    if isinstance(outputs, (list, tuple)):
        return [tensor for part in outputs for tensor in flatten(part)]
    return []


def are_identical(outputs: Mapping[str, Sequence[Tensor]]) -> bool:
    """Tell whether all models gave the same tensors, bit for bit."""
    first, *others = outputs.values()
    return bool(first) and all(
        len(first) == len(other) and all(map(torch.equal, first, other))
        for other in others
    )
