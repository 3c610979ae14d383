"""Batches of pairs, as some classification methods need them."""

from typing import Any, List, Sequence, Tuple

from torch import Tensor

Half = Tuple[Tensor, List[Any]]


def check_unmixed(data_samples: Sequence[Any], method: str) -> None:
    """Refuse mixed images, for methods that have to tell them apart.

    Raises:
        ValueError: If the batch was mixed.
    """
    if 'gt_score' in data_samples[0]:
        raise ValueError(
            f'{method} compares images with themselves or with their partners, which '
            'Mixup and CutMix mix with any others. Remove train_cfg.augments from the '
            'student and batch_augments from its data_preprocessor.'
        )


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
    check_unmixed(data_samples, method)
    return (inputs[:size], first), (inputs[size:], second)
