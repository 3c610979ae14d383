"""Zipf's LS: the last map's positions vote for soft labels of the others."""

from typing import Any, Dict, Optional, Sequence

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments

from .base import BaseDistiller


@MODELS.register_module()
class ZipfLS(BaseDistiller):
    r"""Rank the other classes by what the positions of the last map predict.

    .. math::
        L = L_{task}(z, y) + \lambda L_{Zipf}(z, v, y)

    The student's own classifier scores every position of its last map, enlarged
    twice; v are the classes with the highest score. Nothing is added to the
    student and one pass is enough. The votes are not differentiated.

    The paper's auxiliary classifier on the stage before is off in the authors'
    commands for CIFAR-100 and is not here.

    Paper: Efficient One Pass Self-distillation with Zipf's Label Smoothing,
    ECCV 2022, https://arxiv.org/abs/2207.12980
    Source: megvii-research/zipfls@108e27a, pytorch_zipfls/train.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        zipf (dict, optional): Settings of ``ZipfLoss``; its ``loss_weight`` is
            lambda.
        upsample (bool): Enlarge the map twice (bilinear) before the vote, as in
            the authors' commands for CIFAR-100. Defaults to True.

    Raises:
        TypeError: If the student is not a classifier with global average
            pooling and one linear layer.
        ValueError: In training, if the images are mixed.
    """

    classification_only = True

    @check_arguments()
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        zipf: Optional[dict] = None,
        upsample: bool = True,
    ) -> None:
        super().__init__(student)
        from mmpretrain.models.necks import GlobalAveragePooling

        is_pooled = isinstance(student.neck, GlobalAveragePooling)
        if not is_pooled or not isinstance(
            getattr(student.head, 'fc', None), nn.Linear
        ):
            raise TypeError(
                "ZipfLS scores positions of the last map with the student's linear "
                'classifier, so it needs a GlobalAveragePooling neck and a head such '
                f'as LinearClsHead, not a {type(student.neck).__name__} and a '
                f'{type(student.head).__name__}. Use another method, such as '
                'label-smoothing or frskd.'
            )
        self.zipf = MODELS.build({'type': 'frskd_mm.ZipfLoss', **(zipf or {})})
        self.upsample = upsample

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the two terms, see :class:`BaseDistiller`."""
        if 'gt_score' in data_samples[0]:
            raise ValueError(
                'ZipfLS ranks the classes beside the one label of an image, but Mixup '
                'and CutMix give two. Remove train_cfg.augments from the student and '
                'batch_augments from its data_preprocessor.'
            )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        student_pass = self.run_student(student, inputs, data_samples, 'backbone')
        votes = self.vote(student.head.fc, student_pass.feats[-1])
        losses = student_pass.losses
        losses['loss_zipf'] = self.zipf(student_pass.logits, votes, labels)
        return losses

    @torch.no_grad()
    def vote(self, classifier: nn.Linear, feat: Tensor) -> Tensor:
        """Return the class of each position, (N, H * W), of a map (N, C, H, W)."""
        if self.upsample:
            feat = F.interpolate(feat, scale_factor=2, mode='bilinear')
        return classifier(feat.flatten(2).transpose(1, 2)).argmax(dim=2)
