"""Classifying class and rotation together."""

from functools import wraps
from typing import Any, Callable, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseModule
from torch import Tensor

from frskd_mm.models.tasks import Task
from frskd_mm.models.tasks.classification import target_scores
from frskd_mm.registry import MODELS
from frskd_mm.utils.precision import at_least_fp32, full_precision
from frskd_mm.utils.recorder import Recorder, Replayer

NUM_ROTATIONS = 4


def rotate(images: Tensor) -> Tensor:
    """Return the images turned by 0, 90, 180 and 270 degrees.

    Args:
        images: (N, 3, H, H).

    Returns:
        Tensor: (4N, 3, H, H), all images by 0 degrees first, then all by 90.

    Raises:
        ValueError: If the images are not square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise ValueError(
            f'Rotations need square images, got {height}x{width}. Crop or resize '
            'them to a square in the training pipeline.'
        )
    turned = [torch.rot90(images, turns, (2, 3)) for turns in range(NUM_ROTATIONS)]
    return torch.cat(turned)


def unrotated(feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Return the part of (4N, ...) features that belongs to rotation 0."""
    return tuple(feat[: len(feat) // NUM_ROTATIONS] for feat in feats)


class AllRotations(Recorder):
    """Let a classifier extract the features of all rotations, and score rotation 0.

    Within the ``with`` block ``model.extract_feat(...)`` runs once on all
    rotations and returns rotation 0's share, so the host's ``loss(images,
    data_samples)`` is that of the images as they are.

    Args:
        model: A classifier.
        prepare: What makes all rotations of the input of ``extract_feat``;
            nothing for a twin that is given the maps of all rotations.
    """

    def __init__(
        self, model: BaseModel, prepare: Callable[[Any], Any] = lambda inputs: inputs
    ) -> None:
        super().__init__({'all': (model, 'extract_feat')})
        self.prepare = prepare

    def _recording(self, name: str, method: Callable) -> Callable:
        record = super()._recording(name, method)

        @wraps(method)
        def extract_feat(inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return unrotated(record(self.prepare(inputs), *args, **kwargs))

        return extract_feat

    @property
    def feats(self) -> Sequence[Tensor]:
        """What ``extract_feat`` gave for all rotations, (4N, ...) each."""
        return self.last('all')


class JointHead(BaseModule):
    """A second head with an output for each class in each rotation.

    It is the student's head, built again with 4 * C outputs: output c * 4 + r
    stands for class c turned by r * 90 degrees.

    Paper: Self-supervised Label Augmentation via Input Transformations, ICML
    2020, https://arxiv.org/abs/1910.05872
    Source: hankook/SLA@bc5d9cd, trainers.py

    Args:
        task (Task): How to read the student.
        student_cfg (ConfigDict): The student's config.
        in_channels (int): Channels of the features that the head reads.
    """

    def __init__(self, task: Task, student_cfg: ConfigDict, in_channels: int) -> None:
        super().__init__()
        cfg = task.twin_cfg(
            student_cfg, 'neck', [student_cfg.head.in_channels], [in_channels]
        )
        cfg.head.num_classes *= NUM_ROTATIONS
        self.classifier = MODELS.build(cfg)

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """Score the features of :func:`rotate`'s images.

        Args:
            feats: What the neck gave for all rotations, (4N, ...) each.

        Returns:
            Tensor: Joint logits (4N, 4C).
        """
        return self.classifier(feats, mode='tensor')

    @staticmethod
    def own_rotation(joint: Tensor) -> Tensor:
        """Pick for each rotation the scores of the classes in that rotation.

        Args:
            joint: (4N, 4C).

        Returns:
            Tensor: (N, C, 4).
        """
        by_rotation = joint.reshape(
            NUM_ROTATIONS,
            len(joint) // NUM_ROTATIONS,
            joint.shape[1] // NUM_ROTATIONS,
            NUM_ROTATIONS,
        )
        return by_rotation.diagonal(dim1=0, dim2=3)

    def aggregate(self, joint: Tensor) -> Tensor:
        """Average the class logits of the four rotations, (4N, 4C) -> (N, C)."""
        return self.own_rotation(joint).mean(dim=2)

    def loss(self, joint: Tensor, data_samples: Sequence[Any]) -> Tensor:
        """Compute the cross entropy with the joint labels.

        Args:
            joint: (4N, 4C).
            data_samples: The N annotations; mixed labels are possible.

        Returns:
            Tensor: Mean over the 4N images.
        """
        with full_precision(joint):
            log_probs = self.own_rotation(F.log_softmax(at_least_fp32(joint), dim=1))
            scores = target_scores(data_samples, num_classes=log_probs.shape[1])
            return -(scores.unsqueeze(2) * log_probs).sum(dim=1).mean()

    def predict(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Any:
        """Predict with the student's backbone from all four rotations.

        Args:
            student: The distilled model.
            inputs: Preprocessed images (N, 3, H, H).
            data_samples: Their annotations, as for the host's ``predict``.

        Returns:
            The aggregated predictions in the host library's form.
        """
        feats = student.extract_feat(rotate(inputs))
        logits = self.aggregate(self(feats))
        with Replayer({'logits': (student.head, 'forward')}, {'logits': [logits]}):
            return student.head.predict(unrotated(feats), data_samples)
