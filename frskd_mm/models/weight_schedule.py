"""When, and how strongly, distillation acts during training."""

import math
from typing import Optional

import torch
from mmengine.logging import MessageHub

from frskd_mm.registry import MODELS
from frskd_mm.utils.compiling import is_compiling


@MODELS.register_module()
class WeightSchedule:
    """Factor on the distillation terms over the course of training.

    The factor is 0 before ``begin``, and 0 from ``end`` on. In between it is

    * 1 with ``ramp=None``: constant, delayed (``begin``) or stopped (``end``);
    * exp(-5 * (1 - t)^2) with ``ramp='sigmoid'``, t being the fraction of the
      epochs (iterations) between ``begin`` and the end of training, or
      ``ramp_end``, that the present one completes; so the last one has t = 1.

    Progress is read from MMEngine's ``MessageHub``, where every runner keeps
    it, so resuming needs nothing and no hook has to be configured. Without a
    runner the factor is that of the first epoch. Compiled code cannot read it
    there: it sees what :meth:`refresh` found before the model's ``forward``.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, segmentation/main.py

    Args:
        begin (int | float): First epoch (iteration) with distillation. A float
            below 1 is a fraction of the whole training. Defaults to 0.
        end (int | float, optional): First epoch (iteration) without it again,
            or a fraction.
        ramp (str, optional): None or 'sigmoid'. Defaults to None.
        ramp_end (int | float, optional): Epoch (iteration) whose start ends the
            ramp, or a fraction. Defaults to the end of training.
        by_epoch (bool): Whether the numbers are epochs. Defaults to True.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        begin: float = 0,
        end: Optional[float] = None,
        ramp: Optional[str] = None,
        ramp_end: Optional[float] = None,
        by_epoch: bool = True,
    ) -> None:
        if begin < 0 or (end is not None and end <= begin):
            raise ValueError(f'Need 0 <= begin < end, got begin={begin}, end={end}.')
        if ramp not in (None, 'sigmoid'):
            raise ValueError(f"ramp must be None or 'sigmoid', got {ramp!r}.")
        if ramp_end is not None and ramp_end <= begin:
            raise ValueError(
                f'Need begin < ramp_end, got begin={begin}, ramp_end={ramp_end}.'
            )
        self.begin = begin
        self.end = end
        self.ramp = ramp
        self.ramp_end = ramp_end
        self.by_epoch = by_epoch
        self._factor: Optional[float] = None

    @property
    def is_constant(self) -> bool:
        """Whether the factor is 1 throughout."""
        return self.begin == 0 and self.end is None and self.ramp is None

    def __call__(self) -> float:
        """Return the factor at the runner's present epoch or iteration."""
        if self.is_constant:
            return 1.0
        if self._factor is None or not is_compiling():
            return self.refresh()
        return self._factor

    @torch.compiler.disable
    def refresh(self) -> float:
        """Look up the runner's present epoch or iteration, never in compiled code.

        Returns:
            float: The factor.
        """
        self._factor = self._present()
        return self._factor

    def _present(self) -> float:
        unit = 'epoch' if self.by_epoch else 'iter'
        message_hub = MessageHub.get_current_instance()
        current = message_hub.get_info(unit, 0)
        total = message_hub.get_info(f'max_{unit}s', current + 1)
        begin = _absolute(self.begin, total)
        if current < begin:
            return 0.0
        if self.end is not None and current >= _absolute(self.end, total):
            return 0.0
        if self.ramp is None:
            return 1.0
        ramp_end = total if self.ramp_end is None else _absolute(self.ramp_end, total)
        if ramp_end <= begin:
            raise ValueError(
                f'The weight schedule begins at {unit} {begin}, after the '
                f'end of training at {ramp_end}. Lower `begin` of the '
                "distiller's weight_schedule, or train longer."
            )
        t = min(1.0, (current + 1 - begin) / (ramp_end - begin))
        return math.exp(-5.0 * (1.0 - t) ** 2)


def _absolute(value: float, total: int) -> float:
    """Turn a fraction of the training into an epoch or iteration."""
    if not isinstance(value, float) or value >= 1:
        return value
    return math.ceil(value * total - 1e-6)  # 1 / 6 * 624 is not quite 104
