"""Soft labels for detectors."""

from typing import Any, Optional

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .soft_label_loss import SoftLabelLoss


@MODELS.register_module()
class DetSoftLabelLoss(SoftLabelLoss):
    """:class:`SoftLabelLoss` with the temperature and weights for detectors.

    An extension of this project: no FRSKD detector was published.

    Args:
        temperature (float): K. Defaults to 1.0: larger values raise the
            sigmoid of every background place.
        foreground (str, optional): Weight of the places of dense maps, see
            :class:`SoftLabelLoss`. Defaults to 'confidence'.
        **kwargs: Other arguments of :class:`SoftLabelLoss`.
    """

    @check_arguments()
    def __init__(
        self,
        temperature: float = 1.0,
        foreground: Optional[str] = 'confidence',
        **kwargs: Any,
    ) -> None:
        super().__init__(temperature=temperature, foreground=foreground, **kwargs)
