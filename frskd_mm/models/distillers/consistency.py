"""Consistency: the clean view teaches the strongly augmented one."""

from typing import Any, Dict, Optional, Sequence

import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import merge_branches, predicted_logits
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, POSITIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32

from .base import BaseDistiller, build_soft_label
from .batches import split_pairs


@MODELS.register_module()
class Consistency(BaseDistiller):
    r"""Predict for a strongly augmented image what the clean one gives.

    .. math::
        L = L_{task}(z(x), y) + \lambda \frac{1}{N} \sum_i m_i
            KL(\mathrm{softmax}(z(x_i) / \tau) \,\|\, \mathrm{softmax}(z(\hat x_i)))

    The clean view's prediction is detached; x^ learns from it alone, not from
    the label. m_i is 1 where the clean view's largest probability exceeds
    ``threshold``. UDA is semi-supervised: here its consistency term acts on the
    labelled images, hence "UDA-like". The data loader has to give pairs,
    ``PairDataset`` with ``partner='same_image'`` and the strong transforms as
    ``extra_transforms``. The views run in two passes, each with batch
    statistics of its own; UDA's code runs one.

    Paper: Unsupervised Data Augmentation for Consistency Training, NeurIPS
    2020, https://arxiv.org/abs/1904.12848
    Source: google-research/uda@960684e, image/main.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict, optional): The divergence; its ``loss_weight`` is
            lambda. Defaults to temperature 1 and weight 1.
        sharpening (float): Tau, 0.4 in UDA's CIFAR-10 recipe. Defaults to 1.0.
        threshold (float): Confidence from which an image counts, 0.8 in that
            recipe. Defaults to 0, all count.

    Raises:
        TypeError: If the student is not a classifier.
        ValueError: If ``sharpening`` is not positive.
    """

    classification_only = True

    @check_arguments(sharpening=POSITIVE, threshold=FRACTION)
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: Optional[dict] = None,
        sharpening: float = 1.0,
        threshold: float = 0.0,
    ) -> None:
        super().__init__(student)
        self.soft_label = build_soft_label(soft_label, temperature=1.0)
        self.sharpening = sharpening
        self.threshold = threshold

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        (clean, samples), (strong, _) = split_pairs(
            inputs, data_samples, partner='same_image', method='Consistency'
        )
        clean_pass = self.run_student(student, clean, samples)
        losses = clean_pass.losses
        clean_logits = at_least_fp32(predicted_logits(clean_pass).detach())
        strong_logits = merge_branches(student(strong, mode='tensor'))

        confident = F.softmax(clean_logits, dim=1).amax(dim=1) > self.threshold
        share = confident.float().mean()
        # The soft-label loss averages over the confident ones of all processes,
        # UDA over all images.
        all_reduce(share, op='mean')
        losses['loss_consistency'] = share * self.soft_label(
            strong_logits, clean_logits / self.sharpening, mask=confident
        )
        losses['confident'] = 100.0 * share
        return losses
