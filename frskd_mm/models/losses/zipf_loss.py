"""Zipf's label smoothing: non-target classes by their rank."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32, full_precision


def vote_ranks(votes: Tensor, num_classes: int) -> Tensor:
    """Rank classes by their number of votes.

    Args:
        votes: Classes (N, P), one vote a position.
        num_classes: C.

    Returns:
        Tensor: (N, C) in fp32; 1 for the class with most votes. Classes with
        equally many share the smallest of their ranks.
    """
    counts = votes.new_zeros(len(votes), num_classes)
    counts.scatter_add_(1, votes, torch.ones_like(votes))
    # 1 + the number of classes with more votes
    not_more = torch.searchsorted(counts.sort(dim=1).values, counts, right=True)
    return (1 + num_classes - not_more).float()


@MODELS.register_module()
class ZipfLoss(nn.Module):
    r"""Spread the non-target classes as Zipf's law over their ranks.

    Every position of the last map votes for a class. With r_c the rank of class
    c by votes, y the label and p the student's distribution over the other
    classes,

    .. math::
        L = w \, KL(q \,\|\, p), \quad q_c \propto r_c^{-s}, \quad c \ne y

    summed over classes and averaged over N. The label's class takes part in the
    ranking and not in q. Votes carry no gradient, so the student's logits alone
    are trained.

    Paper: Efficient One Pass Self-distillation with Zipf's Label Smoothing,
    ECCV 2022, https://arxiv.org/abs/2207.12980
    Source: megvii-research/zipfls@108e27a, pytorch_zipfls/losses.py
    (``zipf_loss`` with ``dense=True``, ``distribution='rank_zipf'``)

    Args:
        power (float): s, the exponent of the law. Defaults to 1.0.
        loss_weight (float): w, lambda in the paper. Defaults to 0.1, the
            authors' for CIFAR-100 and ImageNet; for TinyImageNet 1.
    """

    @check_arguments(power=NOT_NEGATIVE, loss_weight=NOT_NEGATIVE)
    def __init__(self, power: float = 1.0, loss_weight: float = 0.1) -> None:
        super().__init__()
        self.power = power
        self.loss_weight = loss_weight

    def forward(self, logits: Tensor, votes: Tensor, labels: Tensor) -> Tensor:
        """Compute the weighted loss.

        Args:
            logits: The student's (N, C).
            votes: Classes (N, P) of P positions of its last map.
            labels: (N, ).

        Returns:
            Tensor: Scalar, already multiplied by ``loss_weight``.
        """
        with full_precision(logits):
            is_label = F.one_hot(labels, logits.shape[1]).bool()
            logits = at_least_fp32(logits)
            ranks = vote_ranks(votes, logits.shape[1]).to(logits.dtype)
            share = ranks.pow(-self.power)
            share = share.masked_fill(is_label, 0.0)
            share = share / share.sum(dim=1, keepdim=True)
            others = logits.masked_fill(is_label, float('-inf'))
            log_student = F.log_softmax(others, dim=1)
            log_student = log_student.masked_fill(is_label, 0.0)  # not 0 * -inf
            divergence = torch.xlogy(share, share) - share * log_student
            return self.loss_weight * divergence.sum(dim=1).mean()
