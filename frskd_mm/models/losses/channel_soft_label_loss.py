"""Soft labels that compare where each class is, rather than what each pixel is."""

from torch import Tensor

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.precision import at_least_fp32

from .soft_label_loss import SoftLabelLoss, check_shapes, softmax_divergence
from .soft_labels import SoftLabels


@MODELS.register_module()
class ChannelSoftLabelLoss(SoftLabelLoss):
    r"""Channel-wise distillation of a segmentor's logits.

    Each class's logits are softened over the places of an image:

    .. math::
        L = \frac{\tau^2}{NC} \sum_{n, c} KL(\mathrm{softmax}_{hw}(z_t / \tau) \,\|\,
        \mathrm{softmax}_{hw}(z_s / \tau))

    All places count, those with an ignored label, too, as in the source.

    Paper: Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021,
    https://arxiv.org/abs/2011.13256
    Source: skyshoumeng/Label_Assisted_Distillation@f04bd72, train_baseline.py
    (``CriterionCWD``)

    Args:
        temperature (float): Tau. Defaults to 4.0.
        loss_weight (float): Alpha. Defaults to 1.0.
        upsample (bool): Whether to bring the logits to the size of their labels
            (bilinear) first. Defaults to False.

    Raises:
        ValueError: If an argument is out of range.
    """

    @check_arguments()
    def __init__(
        self, temperature: float = 4.0, loss_weight: float = 1.0, upsample: bool = False
    ) -> None:
        super().__init__(
            temperature=temperature,
            loss_weight=loss_weight,
            upsample=upsample,
            mask_ignored=False,
        )

    def head_loss(self, head: SoftLabels) -> Tensor:
        """Compute the term of one head, see :class:`SoftLabelLoss`.

        Raises:
            ValueError: If its outputs are no maps.
        """
        check_shapes(head)
        if head.student_cls.dim() != 4:
            raise ValueError(
                'ChannelSoftLabelLoss compares maps of logits (N, C, H, W), but the '
                f'head gives {tuple(head.student_cls.shape)}. Use SoftLabelLoss or '
                'DetSoftLabelLoss as soft_label of the distiller.'
            )
        head = self._on_grid(head)
        maps = (head.student_cls, head.teacher_cls.detach())
        ours, theirs = (at_least_fp32(m).flatten(2) / self.temperature for m in maps)
        return self.temperature**2 * softmax_divergence(ours, theirs).mean()
