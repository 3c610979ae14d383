"""USKD: customised soft labels of the student's own."""

from typing import Tuple

import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import FRACTION, NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision

#: Keeps the division by the non-target probability finite, as in the source.
EPSILON = 1e-6


@MODELS.register_module()
class USKDLoss(nn.Module):
    r"""Soften the target's probability and order the others by two classifiers.

    With s the student's probabilities, w those of a weak classifier on the map
    before the last one, and y the label,

    .. math::
        L = \alpha L_{target} + \beta L_{non} + \mu L_{weak}

        L_{target} = -\big(s_y^2 + 1 - \overline{s_y^2}\big) \log s_y

        L_{non} = -\sum_{c \ne y} z_c \log p_c

        L_{weak} = H\big((1 - \epsilon) 1_y + \epsilon / C,\, w\big)

    each averaged over N. The bar is the mean over the batch, that of all
    processes; the factor before the logarithm is detached. p is the student's
    distribution over the other classes. z is Zipf's law, 1 / rank, over the
    classes in falling order of

    .. math:: w_c / (1 - w_y) + \log s_c / (1 - \log s_y)

    renormalised over the other classes. The source takes logarithms of the
    student there and probabilities of the weak classifier, and so does this.
    L_target and L_non train the student, L_weak the weak classifier and the
    backbone below it.

    Mixed labels (Mixup, CutMix) are taken as the source takes them: the two
    largest shares v of an image are both targets, with the factor
    :math:`s^2 + v - \overline{s^2}`, the mean being over the larger ones and
    over the smaller ones, and 0 where v is 0.

    Paper: From Knowledge Distillation to Self-Knowledge Distillation: A Unified
    Approach with Normalized Loss and Customized Soft Labels, ICCV 2023,
    https://arxiv.org/abs/2303.13005
    Source: yzd-v/cls_KD@1e5d48f, mmcls/models/dis_losses/uskd.py

    Args:
        alpha (float): Weight of L_target. Defaults to 0.1, the authors' for
            CIFAR-100, as of the others; for ImageNet 1.0, 0.1, 0.005.
        beta (float): Weight of L_non. Defaults to 0.1.
        mu (float): Weight of L_weak. Defaults to 0.1.
        smoothing (float): Epsilon. Defaults to 0.1.
    """

    @check_arguments(
        alpha=NOT_NEGATIVE, beta=NOT_NEGATIVE, mu=NOT_NEGATIVE, smoothing=FRACTION
    )
    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 0.1,
        mu: float = 0.1,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.beta = beta
        self.mu = mu
        self.smoothing = smoothing

    def forward(
        self, logits: Tensor, weak_logits: Tensor, scores: Tensor, mixed: bool = False
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Compute the weighted terms.

        Args:
            logits: The student's (N, C).
            weak_logits: The weak classifier's (N, C).
            scores: Target distributions (N, C).
            mixed: Whether these may have two classes.

        Returns:
            tuple[Tensor, Tensor, Tensor]: Scalars, already multiplied by
            ``alpha``, ``beta`` and ``mu``.
        """
        with full_precision(logits):
            logits, weak_logits = at_least_fp32(logits), at_least_fp32(weak_logits)
            scores = scores.to(logits.dtype)
            shares, targets = scores.topk(2 if mixed else 1, dim=1)
            log_student = F.log_softmax(logits, dim=1)
            log_weak = F.log_softmax(weak_logits, dim=1)
            order = self._preference(log_student.detach(), log_weak.detach(), targets)
            smoothed = (1.0 - self.smoothing) * scores + self.smoothing / logits.shape[
                1
            ]
            return (
                self.alpha * self._target_loss(log_student, shares, targets),
                self.beta * self._non_target_loss(logits, order, targets),
                self.mu * -(smoothed * log_weak).sum(dim=1).mean(),
            )

    @staticmethod
    def _target_loss(log_student: Tensor, shares: Tensor, targets: Tensor) -> Tensor:
        log_target = log_student.gather(1, targets)
        squared = log_target.detach().exp().square()
        mean = squared.mean(dim=0, keepdim=True)
        all_reduce(mean, op='mean')
        factor = squared + shares - mean
        factor = torch.where(shares == 0, torch.zeros_like(factor), factor)
        return -(factor * log_target).sum(dim=1).mean()

    @staticmethod
    def _preference(log_student: Tensor, log_weak: Tensor, targets: Tensor) -> Tensor:
        """Return by what classes are ordered, (N, C)."""
        total = torch.zeros_like(log_student)
        for values in (log_weak.exp(), log_student):
            rest = 1.0 - values.gather(1, targets).sum(dim=1, keepdim=True)
            total = total + values / (rest + EPSILON)
        return total

    @staticmethod
    def _non_target_loss(logits: Tensor, order: Tensor, targets: Tensor) -> Tensor:
        if targets.shape[1] >= logits.shape[1]:  # two classes, mixed: none is left
            return logits.sum() * 0.0
        is_target = torch.zeros_like(order, dtype=torch.bool).scatter(1, targets, True)
        rank = 1 + order.argsort(dim=1, descending=True).argsort(dim=1)
        share = (1.0 / rank.to(order.dtype)).masked_fill(is_target, 0.0)
        share = share / share.sum(dim=1, keepdim=True)
        others = logits.masked_fill(is_target, float('-inf'))
        log_student = F.log_softmax(others, dim=1).masked_fill(is_target, 0.0)
        return -(share * log_student).sum(dim=1).mean()
