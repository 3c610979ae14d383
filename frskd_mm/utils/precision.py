"""Numerics shared by the losses."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> torch.autocast:
    """Context in which autocast is off for the tensor's device.

    The losses square features and exponentiate logits; both overflow fp16.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or as it is if it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
