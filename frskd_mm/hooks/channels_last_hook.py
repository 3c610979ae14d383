"""Channels-last memory layout for training on the CPU."""

from typing import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import check_arguments


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Convert the model's weights to channels-last before training.

    Convolutions with such weights give channels-last maps, so the layout
    spreads from the first one on. It changes results by rounding only.

    A wrapped model keeps its layout: DistributedDataParallel has taken note of
    the strides, and with others its first step mixes up the gradients.

    Args:
        devices (Sequence[str]): Device types to convert on. Defaults to the
            CPU, where it is known to be faster.
    """

    @check_arguments()
    def __init__(self, devices: Sequence[str] = ('cpu',)) -> None:
        self.devices = tuple(devices)

    def before_train(self, runner: Runner) -> None:
        """Convert the weights, unless the model is wrapped."""
        self._convert(runner, torch.channels_last)

    def after_train(self, runner: Runner) -> None:
        """Convert the weights back, so that predictions do not depend on this."""
        self._convert(runner, torch.contiguous_format)

    def _convert(self, runner: Runner, memory_format: torch.memory_format) -> None:
        device = next(runner.model.parameters()).device.type
        if device in self.devices and not is_model_wrapper(runner.model):
            runner.model.to(memory_format=memory_format)
