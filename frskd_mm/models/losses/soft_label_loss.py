"""Soft labels: the self-teacher's class distribution teaches the student."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import full_precision

from .weighted_mean import weighted_mean


@MODELS.register_module()
class SoftLabelLoss(nn.Module):
    r"""Kullback-Leibler divergence between softened class distributions.

    .. math::
        L_{KD} = \tau^2 \, KL(\mathrm{softmax}(z_t / \tau) \,\|\,
        \mathrm{softmax}(z_s / \tau))

    summed over classes (dim 1) and averaged over positions: over N for
    (N, C) logits, over the valid N * H * W positions for (N, C, H, W). Note
    that ``reduction='batchmean'`` of PyTorch divides by N alone. The authors'
    segmentation code averages over ignored pixels too; pass no mask for that.
    With a mask, the number of valid positions is averaged over processes, so
    that distributed training equals one process with all images.
    The teacher's logits are detached here, and the loss is computed in fp32
    whatever the autocast dtype.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, classification/distill_loss/KD.py and
    segmentation/utils/distill.py

    Args:
        temperature (float): Tau, K in the paper. Defaults to 4.0.
        loss_weight (float): Alpha in the paper. Defaults to 1.0.

    Raises:
        ValueError: If the temperature is not positive.
    """

    def __init__(self, temperature: float = 4.0, loss_weight: float = 1.0) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f'temperature must be positive, got {temperature}.')
        self.temperature = temperature
        self.loss_weight = loss_weight

    def forward(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        mask: Optional[Tensor] = None,
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            student_logits: (N, C) or (N, C, ...).
            teacher_logits: The same shape; detached here.
            mask: Boolean (N, ...), true where a position counts; with no true
                position the loss is 0. All positions count by default.

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.

        Raises:
            ValueError: If the shapes differ.
        """
        if student_logits.shape != teacher_logits.shape:
            raise ValueError(
                'Student and teacher logits must have one shape, got '
                f'{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}.'
            )
        with full_precision(student_logits):
            log_student = F.log_softmax(
                student_logits.float() / self.temperature, dim=1
            )
            log_teacher = F.log_softmax(
                teacher_logits.detach().float() / self.temperature, dim=1
            )
            divergence = F.kl_div(
                log_student, log_teacher, reduction='none', log_target=True
            ).sum(dim=1)
            if mask is None:
                mean = divergence.mean()
            else:
                # where(), not a product: 0 * inf of an ignored position is NaN.
                zero = divergence.new_zeros(())
                mean = weighted_mean(torch.where(mask, divergence, zero), mask)
            return self.loss_weight * self.temperature**2 * mean
