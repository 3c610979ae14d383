"""What every reader of detector heads shares."""

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Sequence

import torch
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.registry import HEAD_READERS
from frskd_mm.utils.precision import at_least_fp32
from frskd_mm.utils.recorder import Target

NO_CROSS_HEAD = (
    'Remove cross_head from the distiller, or distil a one-stage detector with dense '
    'branches that all levels share: RetinaNet, FCOS, ATSS or GFL.'
)
PLAIN_TERMS = (
    'Set loss_weight=0 in the soft_label of the distiller to distil its features alone.'
)


class HeadReader(ABC):
    """Reads one head of a detector: what is recorded, and how it is compared.

    A kind of head is one subclass, registered in ``HEAD_READERS``, also from
    outside of this package. It finds its heads by ``isinstance``. Of two readers
    that find one head, under one ``name``, the one registered later reads it.

    Student and twin are of one structure, so one reader serves both. For a head
    with sigmoid class maps (N, C, H, W) as its first output, whose finest level
    is compared, all of it is::

        @HEAD_READERS.register_module()
        class FinestMap(HeadReader):
            @classmethod
            def find(cls, detector):
                head = getattr(detector, 'bbox_head', None)
                return [cls('dense')] if isinstance(head, MyHead) else []

            def targets(self, detector):
                return {self.name: (detector.bbox_head, 'forward')}

            def soft_labels(self, student, teacher, data_samples):
                ours, theirs = (one.output(self.name)[0] for one in (student, teacher))
                return SoftLabels(ours[0], theirs[0], cls_form='sigmoid')

    ``SoftLabels`` has more fields, for boxes, quality and weights of places.

    Args:
        name (str): The head's name: 'dense', 'rpn', 'roi0', 'mask0', 'queries';
            also that of the record of its ``forward``, unless another reader of
            the same ``forward`` has named that.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    @abstractmethod
    def find(cls, detector: BaseModel) -> List['HeadReader']:
        """Return a reader for every head of this kind; none is usual."""

    def check(self, detector: BaseModel) -> None:
        """Raise ``TypeError`` for a head whose outputs cannot be compared.

        It is called when the model is built, if soft labels are to be compared.
        """
        return None

    def cut_at(self, detector: BaseModel, index: int) -> None:
        """Compare the teacher's head on what the student's had within it, instead.

        Args:
            detector: Has the head.
            index: How many convolutions of a branch lie before the cut.

        Raises:
            TypeError: If heads of this kind cannot be cut.
            ValueError: If they have too few convolutions.
        """
        raise TypeError(
            f'The head {self.name!r} of {type(detector).__name__} cannot be cut. '
            f'{NO_CROSS_HEAD}'
        )

    @abstractmethod
    def targets(self, detector: BaseModel) -> Dict[str, Target]:
        """Return the methods whose outputs :meth:`soft_labels` needs, by name."""

    def replayed(self) -> Sequence[str]:
        """Name those of the methods that the twin does not run.

        They give there, call by call, what they gave in the student.
        """
        return ()

    @abstractmethod
    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> SoftLabels:
        """Return what the head says in two passes about the same places.

        Args:
            student: The student's pass.
            teacher: That of its twin or teacher on the same images.
            data_samples: Their N annotations.

        Raises:
            TypeError: If the outputs cannot be compared.
        """


def find_readers(detector: BaseModel) -> List[HeadReader]:
    """Return a reader for every head of a detector that can be compared."""
    readers: Dict[str, HeadReader] = {}
    for kind in HEAD_READERS.module_dict.values():
        readers.update({reader.name: reader for reader in kind.find(detector)})
    return list(readers.values())


def activated_logits(loss_cls: Any, scores: Tensor, form: str) -> Tensor:
    """Return logits whose softmax or sigmoid is what a head predicts.

    A loss with an activation of its own, such as ``SeesawLoss`` with a softmax over
    the classes and one over object or not, is compared by what that gives.

    Args:
        loss_cls: The head's classification loss.
        scores: What the head returned (M, C').
        form: 'softmax' or 'sigmoid'.

    Returns:
        Tensor: (M, C); the scores themselves without such an activation.
    """
    if not getattr(loss_cls, 'custom_activation', False):
        return scores
    probabilities = loss_cls.get_activation(at_least_fp32(scores))
    tiny = torch.finfo(probabilities.dtype).tiny
    if form == 'softmax':
        return probabilities.clamp(min=tiny).log()
    # The losses of the host may append the rest as a score of background.
    return probability_logits(probabilities[:, : loss_cls.num_classes])


def probability_logits(probabilities: Tensor) -> Tensor:
    """Return the logits of sigmoid scores, finite at 0 and 1."""
    probabilities = at_least_fp32(probabilities)
    eps = torch.finfo(probabilities.dtype).eps
    return torch.logit(probabilities, eps=eps)
