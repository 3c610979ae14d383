"""Channels-last memory layout for training on the CPU."""

from typing import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from frskd_mm.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Convert the model's weights to channels-last before training.

    Convolutions with such weights give channels-last maps, so the layout
    spreads from the first one on. It changes results by rounding only.

    Args:
        devices (Sequence[str]): Device types to convert on. Defaults to the
            CPU, where it is known to be faster.
    """

    def __init__(self, devices: Sequence[str] = ('cpu',)) -> None:
        self.devices = tuple(devices)

    def before_train(self, runner: Runner) -> None:
        """Convert the weights."""
        if next(runner.model.parameters()).device.type in self.devices:
            runner.model.to(memory_format=torch.channels_last)
