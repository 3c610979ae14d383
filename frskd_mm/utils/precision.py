"""Numerics shared by the losses."""

import torch
from torch import Tensor, nn


def full_precision(tensor: Tensor) -> torch.autocast:
    """Context in which autocast is off for the tensor's device.

    The losses square features and exponentiate logits; both overflow fp16.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or as it is if it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def in_own_precision(module: nn.Module, feat: Tensor) -> Tensor:
    """Apply a module to a map in the module's own dtype.

    Args:
        module: Adapter of a loss, without parameters or with them in one dtype, which
            is bf16 where a strategy casts the whole model.
        feat: Its input.

    Returns:
        Tensor: In fp32 at least.
    """
    parameter = next(module.parameters(), None)
    given = at_least_fp32(feat) if parameter is None else feat.to(parameter.dtype)
    return at_least_fp32(module(given))
