"""Attention transfer for detectors."""

from typing import Any

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .attention_transfer_loss import AttentionTransferLoss


@MODELS.register_module()
class DetAttentionTransferLoss(AttentionTransferLoss):
    """:class:`AttentionTransferLoss` with the defaults for detectors.

    A detector's images and levels have all sizes, hence the reduction that does
    not depend on them.

    An extension of this project; the method's authors published no detector.

    Args:
        loss_weight (float): Beta in the paper. Defaults to 1.0, which suits
            the 'sum' reduction.
        reduction (str): 'mean', 'sum' or 'norm'. Defaults to 'sum'.
        **kwargs: Other arguments of :class:`AttentionTransferLoss`.
    """

    @check_arguments()
    def __init__(
        self, loss_weight: float = 1.0, reduction: str = 'sum', **kwargs: Any
    ) -> None:
        super().__init__(loss_weight=loss_weight, reduction=reduction, **kwargs)
