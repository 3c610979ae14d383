"""DLB: self-distillation from the last mini-batch."""

from typing import Any, Dict, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import predicted_logits
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.progress import training_progress

from .base import BaseDistiller, build_soft_label
from .batches import Half, split_pairs


@MODELS.register_module()
class DLB(BaseDistiller):
    r"""Predict for the last batch, augmented anew, what was predicted then.

    .. math::
        L_t = L_{task}(B_t \cup B'_{t-1}) + \alpha T^2
            KL(\mathrm{softmax}(z_{t-1}(B_{t-1}) / T)
            \,\|\, \mathrm{softmax}(z_t(B'_{t-1}) / T))

    B'_{t-1} are the last iteration's images in another view, and z_{t-1} the
    logits that they had then, with the weights of then. Both views come from
    the data loader, ``PairDataset`` with ``partner='same_image'``; the second is
    kept for the next iteration. As in the authors' code the batches run in two
    passes, with batch statistics of their own.

    The first iteration of an epoch has the task loss alone, in order that a
    resumed run equals an uninterrupted one. The authors carry the last batch
    over from one epoch to the next.

    Paper: Self-Distillation from the Last Mini-Batch for Consistency
    Regularization, CVPR 2022, https://arxiv.org/abs/2203.16172
    Source: Meta-knowledge-Lab/DLB@8949a46, dlb.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict, optional): The divergence; its ``loss_weight`` is
            alpha. Defaults to temperature 3 and weight 1, as in the paper.

    Raises:
        TypeError: If the student is not a classifier.
    """

    classification_only = True
    # Not in checkpoints: a run that is resumed within an epoch lacks it.
    carries_batches = True

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: Optional[dict] = None,
    ) -> None:
        super().__init__(student)
        self.soft_label = build_soft_label(soft_label, temperature=3.0)
        self._last: Optional[Half] = None
        self._last_logits: Optional[Tensor] = None
        self._last_epoch = 0

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        (images, samples), view = split_pairs(
            inputs, data_samples, partner='same_image', method='DLB'
        )
        epoch = training_progress().current
        last = self._last if epoch == self._last_epoch else None
        last_logits = self._last_logits

        present = self.run_student(student, images, samples)
        self._last, self._last_epoch = view, epoch
        self._last_logits = predicted_logits(present).detach()
        if last is None or last_logits is None:
            return present.losses

        again = self.run_student(student, *last)
        # The union's mean; the last batch of an epoch may be smaller. What is only
        # logged speaks of the new images: the others have just been trained on.
        share = len(samples) / (len(samples) + len(last_logits))
        losses = {
            name: share * value + (1.0 - share) * again.losses[name]
            if 'loss' in name
            else value
            for name, value in present.losses.items()
        }
        losses['loss_dlb'] = self.soft_label(predicted_logits(again), last_logits)
        return losses
