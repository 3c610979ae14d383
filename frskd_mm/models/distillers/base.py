"""The interface of self-distillation methods."""

from abc import ABCMeta, abstractmethod
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Set

import torch
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.losses import FeatureLoss
from frskd_mm.models.passes import Pass
from frskd_mm.models.tasks import ClassificationTask, task_of
from frskd_mm.models.tasks.base import Source
from frskd_mm.models.tasks.levels import Levels
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import at_least, check_arguments
from frskd_mm.utils.compiling import is_compiling
from frskd_mm.utils.random import isolated_rng


class BaseDistiller(BaseModule, metaclass=ABCMeta):
    """A self-distillation method: what is added to the student's own loss.

    A distiller is a submodule of the distilled model. It runs the student by
    :meth:`run_student`, once, on two views or on rotations, and twins of parts
    of it by :meth:`run_twin`. Each gives a ``Pass``: the terms, feature maps and
    outputs of that run.

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
    #: The maps that are read, if the method reads several.
    levels: Optional[Levels] = None
    #: Whether the method tells images apart by their index in the training set.
    reads_sample_idx = False

    @check_arguments()
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

    def before_forward(self, student: BaseModel) -> None:
        """Do what has to be done, uncompiled, before a training batch is run."""
        return None

    def check_outputs(self, student: BaseModel) -> None:
        """Refuse a student whose outputs the method's soft labels cannot compare.

        Raises:
            TypeError: If soft labels act and cannot be compared.
        """
        soft_label = getattr(self, 'soft_label', None)
        if soft_label is not None and soft_label.loss_weight:
            self.task.check_outputs(student)

    @abstractmethod
    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute all training terms of a batch.

        Args:
            student: The distilled model.
            inputs: Preprocessed images (N, C, H, W).
            data_samples: Their N annotations.

        Returns:
            dict[str, Tensor]: Terms to optimise, whose names contain 'loss',
            and values to log, whose names do not.
        """

    def run_student(
        self,
        student: BaseModel,
        inputs: Tensor,
        data_samples: Sequence[Any],
        source: Optional[Source] = None,
        preact: bool = False,
    ) -> Pass:
        """Run the host library's own ``loss`` of the student.

        Args:
            student: The distilled model.
            inputs: Preprocessed images (N, C, H, W).
            data_samples: Their N annotations.
            source: 'backbone' or 'neck', whose outputs are kept, or the levels;
                none by default.
            preact: Keep also the maps before their last ReLU.

        Returns:
            Pass: Among its ``losses`` is 'student.task', what the plain student
            would log as its 'loss': methods may scale its terms. A term 'loss',
            as mmpretrain's heads give, is called 'student.loss', since MMEngine
            logs the total of all terms as 'loss'.
        """
        student_pass = self.task.run(
            student, student.host_loss, inputs, data_samples, source, preact
        )
        total, _ = student.parse_losses(student_pass.losses)
        student_pass.losses = {
            'student.loss' if name == 'loss' else name: value
            for name, value in student_pass.losses.items()
        }
        student_pass.losses['student.task'] = total.detach()
        return student_pass

    def run_twin(
        self,
        twin: BaseModel,
        feats: Sequence[Tensor],
        data_samples: Sequence[Any],
        student_pass: Pass,
    ) -> Pass:
        """Run a twin of the student's rest on feature maps.

        Args:
            twin: A model of the host library whose "images" are maps.
            feats: Per level (N, C, H, W), fine to coarse.
            data_samples: The N annotations.
            student_pass: The student's, whose random choices the twin follows.
        """
        twin_pass = self.task.run(
            twin, twin.loss, feats, data_samples, follow=student_pass
        )
        twin_pass.feats = tuple(feats)
        return twin_pass

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


class TeachingDistiller(BaseDistiller):
    """A method whose teacher has outputs and maps that pair with the student's.

    Args:
        student (BaseModel): See :class:`BaseDistiller`.
        weight_schedule (dict, optional): See :class:`BaseDistiller`.
        cross_head (int, optional): How many convolutions of a detection head's
            branches the student runs itself before L_KD lets the teacher's head go
            on, see ``FRSKD``.

    Raises:
        TypeError: If ``cross_head`` is given and the student's heads cannot be cut.

    Attributes:
        soft_label: L_KD; its ``loss_weight`` is alpha.
        feature_loss: L_F, or None; its ``loss_weight`` is beta.
    """

    soft_label: nn.Module
    feature_loss: Optional[FeatureLoss]

    @check_arguments(cross_head=at_least(1))
    def __init__(
        self,
        student: BaseModel,
        weight_schedule: Optional[dict] = None,
        cross_head: Optional[int] = None,
    ) -> None:
        super().__init__(student, weight_schedule)
        self._tried: Set[str] = set()
        if cross_head is not None:
            self.task.cut_heads(student, cross_head)

    @property
    def preact(self) -> bool:
        """Whether L_F compares the maps before their last ReLU."""
        loss = self.feature_loss
        return loss is not None and bool(loss.loss_weight) and loss.preact

    def acts(self, tries: bool = True) -> bool:
        """Whether either term has to be computed now.

        Args:
            tries: Count a trial, too, see :meth:`_try`.
        """
        schedule = self.weight_schedule()
        terms = dict(soft_label=self.soft_label, feature_loss=self.feature_loss)
        return any(
            term is not None
            and (term_acts(term, schedule) or (tries and self._is_untried(name, term)))
            for name, term in terms.items()
        )

    def _is_untried(self, name: str, term: nn.Module) -> bool:
        """Whether a term that acts later has not been computed yet."""
        wanted = bool(term.loss_weight) and not is_compiling()
        return wanted and name not in self._tried

    def _try(self, name: str, term: nn.Module, compute: Callable[[], Tensor]) -> None:
        """Compute a term in the first step that acts later, and forget its value.

        What cannot be compared ends the training then, not at half of it.
        """
        if self._is_untried(name, term):
            self._tried.add(name)
            with torch.no_grad(), isolated_rng():
                compute()

    def soft_label_term(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Return alpha L_KD(z_s, z_t) by its name; nothing while it does not act."""
        schedule = self.weight_schedule()
        compute = partial(self.compare_outputs, student, teacher, data_samples)
        if not term_acts(self.soft_label, schedule):
            self._try('soft_label', self.soft_label, compute)
            return {}
        value = compute()
        return {'loss_kd': schedule * value}

    def feature_term(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Return beta L_F(F, T) by its name; nothing while it does not act."""
        schedule = self.weight_schedule()
        loss = self.feature_loss
        if loss is None:
            return {}
        compute = partial(self.compare_feats, loss, student, teacher, data_samples)
        if not term_acts(loss, schedule):
            self._try('feature_loss', loss, compute)
            return {}
        return {loss.loss_name: schedule * compute()}

    def compare_outputs(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Tensor:
        """Apply the soft-label loss to what the task says is compared."""
        return self.soft_label(self.task.soft_labels(student, teacher, data_samples))

    def compare_feats(
        self,
        feature_loss: FeatureLoss,
        student: Pass,
        teacher: Pass,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Apply the feature loss to the maps of both passes."""
        teacher_feats = teacher.maps(feature_loss.preact)
        weights = self.task.position_weights(
            feature_loss.foreground, teacher_feats, teacher, data_samples
        )
        return feature_loss(student.maps(feature_loss.preact), teacher_feats, weights)
