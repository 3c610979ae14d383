"""When, and how strongly, distillation acts during training."""

import logging
import math
from typing import Optional

import torch
from mmengine.logging import print_log

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments, one_of
from frskd_mm.utils.compiling import is_compiling
from frskd_mm.utils.progress import training_progress


@MODELS.register_module()
class WeightSchedule:
    """Factor on the distillation terms over the course of training.

    The factor is 0 before ``begin``, and 0 from ``end`` on. In between it is

    * 1 with ``ramp=None``: constant, delayed (``begin``) or stopped (``end``);
    * exp(-5 * (1 - t)^2) with ``ramp='sigmoid'``, t being the fraction of the
      epochs (iterations) between ``begin`` and the end of training, or
      ``ramp_end``, that the present one completes; so the last one has t = 1.

    With ``decay_begin`` it then falls to 0 along half a cosine: it is multiplied
    with (1 + cos(pi * s)) / 2, s being the fraction of the epochs (iterations)
    between ``decay_begin`` and ``end`` that lie behind the present one. What
    remains of the training is for the labels alone.

    Progress is read from MMEngine's ``MessageHub``, where every runner keeps
    it, so resuming needs nothing and no hook has to be configured. Without a
    runner the factor is that of the first epoch. Compiled code cannot read it
    there: it sees what :meth:`refresh` found before the model's ``forward``.

    To MMEngine, all of an ``IterBasedTrainLoop`` is one epoch: count iterations
    there (``by_epoch=False``). Where all times are fractions of the training, that is
    done for you.

    Paper: FRSKD, CVPR 2021, https://arxiv.org/abs/2103.08273
    Source: MingiJi/FRSKD@98b87e5, segmentation/main.py

    Example:
        >>> WeightSchedule()()
        1.0
        >>> WeightSchedule(begin=2)()  # the first epoch
        0.0

    Args:
        begin (int | float): First epoch (iteration) with distillation. A float
            below 1 is a fraction of the whole training. Defaults to 0.
        end (int | float, optional): First epoch (iteration) without it again,
            or a fraction.
        ramp (str, optional): None or 'sigmoid'. Defaults to None.
        ramp_end (int | float, optional): Epoch (iteration) whose start ends the
            ramp, or a fraction. Defaults to the end of training.
        decay_begin (int | float, optional): First epoch (iteration) in which the
            factor falls, or a fraction. Defaults to never.
        by_epoch (bool): Whether the numbers are epochs. Defaults to True.

    Raises:
        ValueError: If an argument is out of range. In training, if it would end
            before distillation begins.
    """

    @check_arguments(
        begin=NOT_NEGATIVE,
        end=NOT_NEGATIVE,
        ramp=one_of(None, 'sigmoid'),
        ramp_end=NOT_NEGATIVE,
        decay_begin=NOT_NEGATIVE,
    )
    def __init__(
        self,
        begin: float = 0,
        end: Optional[float] = None,
        ramp: Optional[str] = None,
        ramp_end: Optional[float] = None,
        decay_begin: Optional[float] = None,
        by_epoch: bool = True,
    ) -> None:
        if _precedes(end, begin):
            raise ValueError(f'Need 0 <= begin < end, got begin={begin}, end={end}.')
        if _precedes(ramp_end, begin):
            raise ValueError(
                f'Need begin < ramp_end, got begin={begin}, ramp_end={ramp_end}.'
            )
        if decay_begin is not None and _precedes(end, decay_begin):
            raise ValueError(
                f'Need decay_begin < end, got decay_begin={decay_begin}, end={end}.'
            )
        self.begin = begin
        self.end = end
        self.ramp = ramp
        self.ramp_end = ramp_end
        self.decay_begin = decay_begin
        self.by_epoch = by_epoch
        self._factor: Optional[float] = None

    @property
    def is_constant(self) -> bool:
        """Whether the factor is 1 throughout."""
        given = (self.end, self.ramp, self.decay_begin)
        return self.begin == 0 and all(value is None for value in given)

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
        by_epoch = self.by_epoch
        current, length = training_progress(by_epoch)
        if by_epoch and length == 1 and self._has_only_fractions():
            # Of its one epoch, which all of an IterBasedTrainLoop is to MMEngine.
            by_epoch = False
            current, length = training_progress(by_epoch)
        is_training = length is not None
        total = current + 1 if length is None else length
        begin, end, ramp_end, decay_begin = (
            _absolute(value, total)
            for value in (self.begin, self.end, self.ramp_end, self.decay_begin)
        )
        if is_training:
            self._check_length(begin, end, ramp_end, decay_begin, total, by_epoch)
        if not begin <= current < end:
            return 0.0
        factor = 1.0
        if self.ramp is not None:
            t = min(1.0, (current + 1 - begin) / max(1, ramp_end - begin))
            factor = math.exp(-5.0 * (1.0 - t) ** 2)
        if self.decay_begin is not None and current > decay_begin:
            s = (current - decay_begin) / max(1, min(end, total) - decay_begin)
            factor *= 0.5 * (1.0 + math.cos(math.pi * s))
        return factor

    def _has_only_fractions(self) -> bool:
        """Whether times are given, and all of them as parts of the training."""
        given = (self.begin, self.end, self.ramp_end, self.decay_begin)
        times = [time for time in given if time]
        return bool(times) and all(map(_is_fraction, times))

    def _check_length(
        self,
        begin: float,
        end: float,
        ramp_end: float,
        decay_begin: float,
        total: int,
        by_epoch: bool,
    ) -> None:
        """Refuse a schedule that a training of this length never gets to.

        What only its rounding keeps from beginning, in trials of a few epochs or
        iterations, and times beyond the training are warned of, once.

        Raises:
            ValueError: If it is one.
        """
        unit = 'epoch' if by_epoch else 'iteration'
        one_epoch = by_epoch and total == 1
        advice = (
            ' An IterBasedTrainLoop is one epoch to MMEngine: set by_epoch=False '
            'with it and count iterations.'
            if one_epoch
            else ''
        )
        stop = min(end, total)
        last = stop if self.ramp is None else min(stop, ramp_end)
        is_rounded = (
            _is_fraction(self.begin)
            and not one_epoch
            and (begin >= total or self._has_only_fractions())
        )
        never = (
            f'The weight_schedule of the distiller would begin with {unit} {begin} '
            f'and end with {last}, in a training of {total}, so nothing would be '
            f'distilled. Lower its begin, or train longer.{advice}'
        )
        if begin >= last and not is_rounded:
            raise ValueError(never)
        if self._factor is not None:
            return
        said = [never] if begin >= stop else []
        if one_epoch and self.ramp is not None:
            said.append(f'The ramp of the weight_schedule stays where it is.{advice}')
        for name, time in (('end', end), ('decay_begin', decay_begin)):
            if time > total:
                said.append(
                    f'The weight_schedule has {name}={time}, beyond a training of '
                    f'{total} {unit}(s), where it changes nothing.{advice}'
                )
        for text in said:
            print_log(text, logger='current', level=logging.WARNING)


def _is_fraction(value: float) -> bool:
    return isinstance(value, float) and value < 1


def _precedes(end: Optional[float], begin: float) -> bool:
    """Tell whether a schedule ends before it begins, if both have one unit."""
    if end is None or (begin and _is_fraction(end) != _is_fraction(begin)):
        return False
    return end <= begin


def _absolute(value: Optional[float], total: int) -> float:
    """Turn a fraction of the training, or None for its end, into a number."""
    if value is None:
        return total
    if not _is_fraction(value):
        return value
    return math.ceil(value * total - 1e-6)  # 1 / 6 * 624 is not quite 104
