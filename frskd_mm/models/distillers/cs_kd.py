"""CS-KD: class-wise self-knowledge distillation."""

from typing import Any, Dict, Optional, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import merge_branches, predicted_logits
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .base import BaseDistiller, build_soft_label
from .batches import split_pairs


@MODELS.register_module()
class CSKD(BaseDistiller):
    r"""Predict for an image what is predicted for another one of its class.

    .. math::
        L = L_{task}(z(x), y) + \lambda T^2 KL(\mathrm{softmax}(z(x') / T)
            \,\|\, \mathrm{softmax}(z(x) / T))

    x' is another image of the same class. Its logits are computed in training
    mode (so its batch updates the running statistics, too) and detached. The
    data loader has to give pairs, ``PairDataset`` with
    ``partner='same_class'``.

    Paper: Regularizing Class-wise Predictions via Self-knowledge Distillation,
    CVPR 2020, https://arxiv.org/abs/2003.13964
    Source: alinlab/cs-kd@b447f25, train.py and datasets.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict, optional): The divergence; its ``loss_weight`` is
            lambda. Defaults to temperature 4 and weight 1.

    Raises:
        TypeError: If the student is not a classifier.
    """

    classification_only = True

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: Optional[dict] = None,
    ) -> None:
        super().__init__(student)
        self.soft_label = build_soft_label(soft_label, temperature=4.0)

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        (images, samples), (partners, _) = split_pairs(
            inputs, data_samples, partner='same_class', method='CSKD'
        )
        student_pass = self.run_student(student, images, samples)
        with torch.no_grad():
            partner_logits = merge_branches(student(partners, mode='tensor'))
        term = self.soft_label(predicted_logits(student_pass), partner_logits)
        return {**student_pass.losses, 'loss_cs_kd': term}
