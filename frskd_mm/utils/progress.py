"""How far the training has got."""

from typing import NamedTuple, Optional

from mmengine.logging import MessageHub


class Progress(NamedTuple):
    """The runner's present epoch or iteration, counted from 0, and their number.

    Attributes:
        current: 0 without a runner.
        total: None without a runner.
    """

    current: int
    total: Optional[int]


def training_progress(by_epoch: bool = True) -> Progress:
    """Look up the progress in MMEngine's ``MessageHub``, where every runner has it.

    To MMEngine, all of an ``IterBasedTrainLoop`` is one epoch.

    Args:
        by_epoch: Count epochs; otherwise iterations.
    """
    unit = 'epoch' if by_epoch else 'iter'
    message_hub = MessageHub.get_current_instance()
    return Progress(message_hub.get_info(unit, 0), message_hub.get_info(f'max_{unit}s'))
