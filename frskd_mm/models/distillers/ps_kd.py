"""PS-KD: progressive self-knowledge distillation."""

from typing import Any, Dict, Sequence

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dist import all_gather
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import (
    head_setting,
    predicted_logits,
    target_scores,
)
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, at_least, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision
from frskd_mm.utils.progress import training_progress

from .base import BaseDistiller, scale_losses
from .batches import check_unmixed


@MODELS.register_module()
class PSKD(BaseDistiller):
    r"""Soften the targets with the last epoch's own predictions.

    .. math::
        L = (1 - \alpha_t) L_{task}(z, y) + \alpha_t H(p_{t-1}, \mathrm{softmax}(z)),
        \quad \alpha_t = \alpha_T \, t / T

    H is the cross entropy and p_{t-1}(x) what was predicted for the image in
    epoch t - 1; t runs from 1 to T. For a cross-entropy task loss this is the
    paper's cross entropy with the targets (1 - alpha_t) y + alpha_t p_{t-1}. An
    image without a past prediction, as in the first epoch, has y in its place.
    With an ``IterBasedTrainLoop``, one epoch to MMEngine, t and T are iterations.

    The predictions lie in a buffer by ``sample_idx``, the index in the data set,
    so shuffling does not matter. Checkpoints contain it, so resuming
    goes on with it; several processes exchange their predictions in every
    iteration, so they agree. It takes 4 * ``num_samples`` * C bytes, 20 MB for
    CIFAR-100. A ``ConcatDataset`` numbers each of its parts from 0 and is refused:
    by the tools when they read it in the config, and here when a row comes with
    another file or label than before.

    Paper: Self-Knowledge Distillation with Progressive Refinement of Targets,
    ICCV 2021, https://arxiv.org/abs/2006.12000
    Source: lgcnsai/PS-KD-Pytorch@9aa0828, main.py and loss/pskd_loss.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        num_samples (int): Size of the training set, or more.
        alpha (float): alpha_T, the past predictions' share at the end.
            Defaults to 0.8.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If ``alpha`` is out of range.
    """

    classification_only = True
    reads_sample_idx = True

    @check_arguments(num_samples=at_least(1), alpha=FRACTION)
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        num_samples: int,
        alpha: float = 0.8,
    ) -> None:
        super().__init__(student)
        self.alpha = alpha
        num_classes = head_setting(student, 'num_classes', 'PSKD')
        # Whose the rows are, as far as this process has seen; 0 is nobody.
        self._owners = torch.zeros(num_samples, dtype=torch.int64)
        # A row of zeros: not predicted yet.
        self.register_buffer('predictions', torch.zeros(num_samples, num_classes))

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        check_unmixed(data_samples, type(self).__name__)
        student_pass = self.run_student(student, inputs, data_samples)
        logits, alpha = predicted_logits(student_pass), self.present_alpha()
        past = self.recall(data_samples)
        with full_precision(logits):
            log_probs = F.log_softmax(at_least_fp32(logits), dim=1)
            cross_entropy = -(past * log_probs).sum(dim=1).mean()
        self.store(data_samples, log_probs.detach().exp())

        losses = scale_losses(student_pass.losses, 1.0 - alpha)
        losses['loss_ps_kd'] = alpha * cross_entropy
        losses['alpha'] = cross_entropy.new_tensor(alpha)
        return losses

    def present_alpha(self) -> float:
        """Return the runner's present alpha_t; without a runner, alpha_T."""
        epochs = training_progress()
        progress = training_progress(by_epoch=False) if epochs.total == 1 else epochs
        present = progress.current + 1
        return self.alpha * present / (progress.total or present)

    def recall(self, data_samples: Sequence[Any]) -> Tensor:
        """Return the last predictions (N, C), or the targets where none is."""
        past = self.predictions[self._ids(data_samples)]
        self._check_owners(data_samples)
        is_known = past.sum(dim=1, keepdim=True) > 0
        targets = target_scores(data_samples, num_classes=past.shape[1])
        return torch.where(is_known, past, targets.to(past))

    def store(self, data_samples: Sequence[Any], probs: Tensor) -> None:
        """Keep the predictions (N, C) of this process and of all others."""
        ids = torch.cat(all_gather(self._ids(data_samples)))
        self.predictions[ids] = torch.cat(all_gather(probs)).to(self.predictions)

    def _ids(self, data_samples: Sequence[Any]) -> Tensor:
        ids = [sample.get('sample_idx') for sample in data_samples]
        if None in ids:
            raise ValueError(
                "PSKD needs each image's index in the data set: add 'sample_idx' "
                "to the meta_keys of the training pipeline's PackInputs."
            )
        if max(ids) >= len(self.predictions):
            raise ValueError(
                f'sample_idx {max(ids)} does not fit PSKD with num_samples='
                f'{len(self.predictions)}. Set num_samples of the distiller to the '
                'size of the training set.'
            )
        return torch.tensor(ids, device=self.predictions.device)

    def _check_owners(self, data_samples: Sequence[Any]) -> None:
        """Refuse a row that another image has been using.

        Raises:
            ValueError: If there is one.
        """
        ids = torch.tensor([sample.get('sample_idx') for sample in data_samples])
        paths = [sample.get('img_path') for sample in data_samples]
        labels = torch.cat([sample.gt_label for sample in data_samples]).tolist()
        owners = torch.tensor([hash(owner) for owner in zip(paths, labels)])
        before = self._owners[ids]
        self._owners[ids] = owners
        shared = ((before != 0) & (before != owners)) | (self._owners[ids] != owners)
        if shared.any():
            raise ValueError(
                f'sample_idx {ids[shared][0].item()} belongs to several images: PSKD '
                'would mix up their predictions. A ConcatDataset numbers each of its '
                'parts from 0: train on one data set, with a single list of images.'
            )
