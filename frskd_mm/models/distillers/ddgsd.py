"""DDGSD: data-distortion guided self-distillation."""

from typing import Any, Dict, Optional, Sequence

from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.tasks.classification import check_one_branch, predicted_logits
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, check_arguments
from frskd_mm.utils.precision import at_least_fp32
from frskd_mm.utils.recorder import Recorder

from .base import BaseDistiller, build_soft_label, scale_losses
from .batches import split_pairs


@MODELS.register_module()
class DDGSD(BaseDistiller):
    r"""Let two distorted views of an image teach each other.

    .. math::
        L = L_{task}(z_a, y) + L_{task}(z_b, y)
            + \lambda (T^2 KL(p_b \,\|\, p_a) + T^2 KL(p_a \,\|\, p_b))
            + \mu \| \frac{1}{N} \sum_i h_{a,i} - \frac{1}{N} \sum_i h_{b,i} \|^2

    z are the two views' logits, p their softened distributions and h the pooled
    features. The first distribution of each KL is detached. The last term, the
    maximum mean discrepancy with a linear kernel, trains both views. Both run
    in one pass of 2N images, with common batch statistics. The data loader has
    to give pairs, ``PairDataset`` with ``partner='same_image'``.

    The authors released no code. The public ports write lambda = 1 and
    mu = 5e-4 and differ in the rest: the weight of the task losses (their sum,
    or half their mean), the scale of the divergences and whether their targets
    are detached, the temperature (1, 3 or 4), what the last term compares
    (logits, or means over batch and channels), the views and the passes;
    docs/methods/pairs.md has the table. This is the description's form.

    Paper: Data-Distortion Guided Self-Distillation for Deep Neural Networks,
    AAAI 2019, https://doi.org/10.1609/aaai.v33i01.33015565
    Sources: winycg/Self-KD-Lib@ede3062, methods/ddsgd.py, and
    youngerous/ddgsd-pytorch@d07d90c, src/trainer.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict, optional): The divergence; its ``loss_weight`` is
            lambda. Defaults to temperature 1 and weight 1.
        mmd_weight (float): Mu. Defaults to 5e-4.

    Raises:
        TypeError: If the student is not a classifier, or its head has two branches.
    """

    classification_only = True

    @check_arguments(mmd_weight=NOT_NEGATIVE)
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: Optional[dict] = None,
        mmd_weight: float = 5e-4,
    ) -> None:
        super().__init__(student)
        check_one_branch(student, type(self).__name__)
        self.soft_label = build_soft_label(soft_label, temperature=1.0)
        self.mmd_weight = mmd_weight

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute all terms, see :class:`BaseDistiller`."""
        # Checks the batch; the views run together.
        split_pairs(inputs, data_samples, partner='same_image', method='DDGSD')
        with Recorder({'pooled': (student.head, 'pre_logits')}) as head:
            student_pass = self.run_student(student, inputs, data_samples)
        # The host averages over the 2N images; the views' losses are summed.
        losses = scale_losses(student_pass.losses, 2.0)

        logits_a, logits_b = predicted_logits(student_pass).chunk(2)
        losses['loss_kd'] = self.soft_label(logits_a, logits_b) + self.soft_label(
            logits_b, logits_a
        )
        pooled_a, pooled_b = at_least_fp32(head.last('pooled')).chunk(2)
        discrepancy = pooled_a.mean(dim=0) - pooled_b.mean(dim=0)
        losses['loss_mmd'] = self.mmd_weight * discrepancy.square().sum()
        return losses
