"""What the classification methods read from a batch."""

from typing import Any, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

Half = Tuple[Tensor, List[Any]]


def target_scores(data_samples: Sequence[Any], num_classes: int) -> Tensor:
    """Return the batch's target distributions.

    Args:
        data_samples: N annotations, with mixed labels (``gt_score``) or plain
            ones (``gt_label``).
        num_classes: C.

    Returns:
        Tensor: (N, C), rows sum to 1.
    """
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples])
    labels = torch.cat([sample.gt_label for sample in data_samples])
    return F.one_hot(labels, num_classes).float()


def split_pairs(
    inputs: Tensor, data_samples: Sequence[Any], partner: str, method: str
) -> Tuple[Half, Half]:
    """Split a batch of N pairs.

    Args:
        inputs: Images (2N, 3, H, W), the samples and then their partners.
        data_samples: Their 2N annotations.
        partner: Kind of partner that the method needs, see ``PairDataset``.
        method: The method's name, for the error.

    Returns:
        tuple: Images and annotations of the samples, and of their partners.

    Raises:
        ValueError: If the batch does not consist of such pairs.
    """
    size = len(data_samples) // 2
    first, second = list(data_samples[:size]), list(data_samples[size:])
    found = {sample.get('partner') for sample in second}
    if found != {partner} or any('partner' in sample for sample in first):
        raise ValueError(
            f'{method} needs batches of pairs with partner={partner!r}, got a batch '
            f'of {len(data_samples)} samples with partners {sorted(map(str, found))}. '
            "Set train_dataloader.collate_fn=dict(type='frskd_mm.collate_pairs') and "
            "train_dataloader.dataset=dict(type='frskd_mm.PairDataset', "
            f'partner={partner!r}, dataset=<the present one>).'
        )
    return (inputs[:size], first), (inputs[size:], second)
