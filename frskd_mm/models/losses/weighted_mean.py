"""The average of a loss over the positions that count."""

from typing import Optional

import torch
from mmengine.dist import all_reduce
from torch import Tensor


def weighted_mean(values: Tensor, weight: Optional[Tensor] = None) -> Tensor:
    """Average over positions; 0, with a gradient, where none counts.

    The denominator is averaged over the processes of a distributed run, so
    that the mean of their gradients is that of one process with all images.
    Every process has to call this equally often.

    Args:
        values: Any shape.
        weight: The same shape, boolean or not negative; 1 by default.

    Returns:
        Tensor: Scalar.
    """
    if weight is None:
        total, count = values.sum(), values.new_tensor(float(values.numel()))
    else:
        weight = weight.to(values.dtype)
        total, count = (weight * values).sum(), weight.sum()
    return total / over_processes(count).clamp(min=torch.finfo(values.dtype).eps)


def over_processes(count: Tensor) -> Tensor:
    """Average a denominator over the processes of a distributed run.

    Every process has to call this equally often.

    Args:
        count: Scalar; detached here.
    """
    count = count.detach().clone()
    all_reduce(count, op='mean')
    return count
