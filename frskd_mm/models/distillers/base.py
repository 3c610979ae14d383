"""The interface of self-distillation methods."""

from abc import ABCMeta, abstractmethod
from typing import Any, Callable, Dict, Optional, Sequence

from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.tasks import ClassificationTask, task_of
from frskd_mm.registry import MODELS
from frskd_mm.utils.random import isolated_rng

StudentLoss = Callable[[Tensor, Sequence[Any]], Dict[str, Tensor]]


class BaseDistiller(BaseModule, metaclass=ABCMeta):
    """A self-distillation method: what is added to the student's own loss.

    A distiller is a submodule of the distilled model. It gets the student's
    loss as a function, so it may call it once, on two views or on rotations.

    Args:
        student (BaseModel): The built student. It may be read here, to infer
            channels for example, but is not kept.
        weight_schedule (dict, optional): Factor on the method's terms over time,
            see ``WeightSchedule``. Constant by default.

    Raises:
        TypeError: If the method does not suit the student's task.
    """

    #: Whether the method needs one label and one score vector an image.
    classification_only = False
    #: Whether the method reads several feature maps of the student.
    reads_levels = False
    #: Whether the method tells images apart by their index in the training set.
    reads_sample_idx = False

    def __init__(
        self, student: BaseModel, weight_schedule: Optional[dict] = None
    ) -> None:
        super().__init__()
        self.weight_schedule = MODELS.build(
            {'type': 'frskd_mm.WeightSchedule', **(weight_schedule or {})}
        )
        self.task = task_of(student)
        self.task.check_student(student)
        if self.classification_only and not isinstance(self.task, ClassificationTask):
            raise TypeError(
                f'{type(self).__name__} is for classification, but the student '
                f'is a {type(student).__name__}. Use FRSKD, BYOT, SAD or '
                'PretrainedTeacher for dense prediction.'
            )

    @abstractmethod
    def loss(
        self,
        student: BaseModel,
        student_loss: StudentLoss,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Dict[str, Tensor]:
        """Compute all training terms of a batch.

        Args:
            student: The distilled model.
            student_loss: The host library's own ``loss`` of the student.
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: Their N annotations.

        Returns:
            dict[str, Tensor]: Terms to optimise, whose names contain 'loss',
            and values to log, whose names do not.
        """

    def init_weights(self) -> None:
        """Initialise without taking random numbers from the student."""
        with isolated_rng():
            super().init_weights()


def scale_losses(losses: Dict[str, Any], factor: float) -> Dict[str, Any]:
    """Scale what is optimised and leave what is only logged.

    Args:
        losses: Tensors, or lists of tensors (one a level), by name.
        factor: Multiplies the values whose name contains 'loss'.
    """
    if factor == 1.0:
        return dict(losses)
    scaled = {}
    for name, value in losses.items():
        if 'loss' in name:
            is_tensor = isinstance(value, Tensor)
            value = factor * value if is_tensor else [factor * v for v in value]
        scaled[name] = value
    return scaled


def with_prefix(
    prefix: str, losses: Dict[str, Any], factor: float = 1.0
) -> Dict[str, Any]:
    """Prepend ``prefix.`` to every name and scale what is optimised.

    Args:
        prefix: The new first part of the names.
        losses: Tensors, or lists of tensors (one a level), by name.
        factor: Multiplies the values whose name contains 'loss'.
    """
    return {
        f'{prefix}.{name}': value
        for name, value in scale_losses(losses, factor).items()
    }


def build_soft_label(cfg: Optional[dict], temperature: float) -> nn.Module:
    """Build a method's divergence, ``SoftLabelLoss`` unless the config differs.

    Args:
        cfg: The user's settings, if any.
        temperature: The method's own, where the settings have none.
    """
    default = dict(type='frskd_mm.SoftLabelLoss', temperature=temperature)
    return MODELS.build({**default, **(cfg or {})})


def term_acts(loss: nn.Module, schedule: float) -> bool:
    """Whether a term has to be computed.

    While the schedule is 0, a loss with parameters is computed all the same:
    DistributedDataParallel waits for their gradients.
    """
    has_parameters = next(loss.parameters(), None) is not None
    return bool(loss.loss_weight) and (schedule > 0 or has_parameters)


def name_student_loss(losses: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a student's term 'loss' to 'student.loss'.

    MMEngine logs the total of all terms as 'loss', and a term of that name,
    as mmpretrain's heads give, would take its place in the log.
    """
    return {
        'student.loss' if name == 'loss' else name: value
        for name, value in losses.items()
    }
