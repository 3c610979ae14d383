"""Classification: the models of mmpretrain."""

from copy import deepcopy
from typing import Any, Dict, List, Sequence

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.utils.recorder import Target
from frskd_mm.utils.scope import type_name

from .base import RewiringError, Task, rewire, sample_name
from .parts import check_parts

#: Necks that take maps of any number of channels.
POOLINGS = ('GlobalAveragePooling', 'GeneralizedMeanPooling')


class ClassificationTask(Task):
    """Reads ``ImageClassifier`` of mmpretrain."""

    input_size = (64, 64)

    def check_student(self, student: BaseModel) -> None:
        """Require a head with one label an image, whose softmax is compared."""
        from mmpretrain.models import BaseSelfSupervisor
        from mmpretrain.models.heads import MultiLabelClsHead, MultiTaskHead

        if isinstance(student, BaseSelfSupervisor):
            raise TypeError(
                f'{type(student).__name__} is pre-trained without labels, but a '
                'self-teacher learns from them. Pre-train it plainly, and distil the '
                'classifier that is fine-tuned from it.'
            )
        check_parts(student, 'head')
        from mmpretrain.models import heads

        refused = [MultiLabelClsHead, MultiTaskHead]
        # The maintained mmpretrain has it.
        refused += [heads.RegressionHead] if hasattr(heads, 'RegressionHead') else []
        if isinstance(student.head, tuple(refused)):
            raise TypeError(
                'Classifiers are distilled with one label an image, but the head is a '
                f'{type(student.head).__name__}. Use one such as LinearClsHead.'
            )

    def twin_cfg(
        self,
        student_cfg: ConfigDict,
        source: str,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
    ) -> ConfigDict:
        """Rewire the neck where it names its channels, else the head."""
        cfg = deepcopy(student_cfg)
        for key in ('data_preprocessor', 'train_cfg', 'pretrained', 'init_cfg'):
            cfg.pop(key, None)
        cfg.backbone = dict(type='frskd_mm.PassThrough')
        if source == 'neck':
            cfg.neck = None
        for part in [*_necks(cfg), cfg.head]:
            if 'in_channels' in part:
                rewire(part, in_channels, out_channels)
                break
            is_pooling = type_name(part.type) in POOLINGS
            if not is_pooling and list(in_channels) != list(out_channels):
                raise RewiringError(
                    f'{type_name(part.type)} names no in_channels that could be set '
                    'to the refined ones.'
                )
        return cfg

    def levels_read(
        self, student_cfg: ConfigDict, source: str, num_levels: int
    ) -> List[int]:
        """Return the last level, unless a neck reads others besides."""
        necks = _necks(student_cfg) if source == 'backbone' else []
        if all(type_name(neck.type) == 'GlobalAveragePooling' for neck in necks):
            return [num_levels - 1]
        return list(range(num_levels))

    def output_targets(self, model: BaseModel) -> Dict[str, Target]:
        """Soft labels compare the head's logits (N, C)."""
        from mmpretrain.models.heads import ArcFaceClsHead

        if isinstance(model.head, ArcFaceClsHead):  # its logits have a margin
            return {'logits': (model.head.norm_product, 'forward')}
        return {'logits': (model.head, 'forward')}

    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> List[SoftLabels]:
        """Compare the logits (N, C) of the two heads, as they predict."""
        return [SoftLabels(predicted_logits(student), predicted_logits(teacher))]

    def metrics(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Top-1 accuracy (%) on the training batch; a mix has its main label.

        The names are the same for every batch: processes that mix by chance must
        log the same values to average them.
        """
        pairs = [('student', student), ('self_teacher', teacher)]
        scores = {name: predicted_logits(one) for name, one in pairs}
        num_classes = scores['student'].shape[1]
        labels = target_scores(data_samples, num_classes).argmax(dim=1)
        return {
            f'{name}.acc': 100.0 * (logits.argmax(dim=1) == labels).float().mean()
            for name, logits in scores.items()
        }

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Require 0 <= label < num_classes."""
        num_classes = getattr(student.head, 'num_classes', None)
        if num_classes is None:
            return
        for sample in data_samples:
            label = sample.get('gt_label')
            if label is not None and not ((label >= 0) & (label < num_classes)).all():
                raise ValueError(
                    f'Label {label.tolist()} of sample {sample_name(sample)} is '
                    f'out of range for head.num_classes={num_classes}. Set '
                    'student.head.num_classes to the number of classes of the '
                    'dataset.'
                )


def _necks(cfg: ConfigDict) -> List[ConfigDict]:
    """Return the necks of a classifier's config, in order; it may have several."""
    necks = cfg.get('neck') or []
    return list(necks) if isinstance(necks, (list, tuple)) else [necks]


def predicted_logits(one: Pass) -> Tensor:
    """Return the logits (N, C) from which a classifier predicts.

    Not what its head computed in training if that has a margin.

    Args:
        one: A training pass, whose logits were recorded.
    """
    logits, head = merge_branches(one.logits), one.model.head
    # ArcFace predicts from scaled cosines without the margin.
    return logits * head.scale if hasattr(head, 'norm_product') else logits


def merge_branches(outputs: Any) -> Tensor:
    """Return the logits (N, C) of a classifier's ``mode='tensor'``.

    Args:
        outputs: Logits, or those of two branches: Conformer predicts from their sum.
    """
    if isinstance(outputs, (list, tuple)):
        return torch.stack(list(outputs)).sum(dim=0)
    return outputs


def check_one_branch(student: BaseModel, method: str) -> None:
    """Refuse a Conformer, whose head takes two pooled vectors.

    Raises:
        TypeError: If the student is one.
    """
    from mmpretrain.models.heads import ConformerHead

    if isinstance(student.head, ConformerHead):
        raise TypeError(
            f'{method} reads one pooled vector an image, but the head is a '
            'ConformerHead, which has two. Use a method that reads logits alone, '
            'such as cs-kd or ps-kd.'
        )


def target_scores(data_samples: Sequence[Any], num_classes: int) -> Tensor:
    """Return the batch's target distributions.

    Args:
        data_samples: N annotations, with mixed labels (``gt_score``) or plain
            ones (``gt_label``).
        num_classes: C.

    Returns:
        Tensor: (N, C), rows sum to 1.
    """
    if 'gt_score' in data_samples[0]:
        return torch.stack([sample.gt_score for sample in data_samples])
    labels = torch.cat([sample.gt_label for sample in data_samples])
    return F.one_hot(labels, num_classes).float()


def head_setting(student: BaseModel, name: str, method: str) -> int:
    """Return a number that a head of a classifier names.

    Args:
        student: A classifier.
        name: 'num_classes' or 'in_channels'.
        method: Who asks.

    Raises:
        TypeError: If the head has no layer of its own, as behind LeNet.
    """
    value = getattr(student.head, name, None)
    if not isinstance(value, int):
        raise TypeError(
            f'{method} reads {name} of the head, which a {type(student.head).__name__} '
            'without a layer of its own does not have. Use a head such as '
            'LinearClsHead, or another method, such as frskd or cs-kd.'
        )
    return value
