"""Distillation from a pretrained, frozen teacher."""

from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from frskd_mm.models.losses.feature_loss import build_feature_loss
from frskd_mm.models.passes import Pass
from frskd_mm.models.tasks.levels import Levels, StageNames
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import NOT_NEGATIVE, at_least, check_arguments
from frskd_mm.utils.checkpoint import select_weights, weights_of
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.preprocessing import renormalizer
from frskd_mm.utils.random import isolated_rng
from frskd_mm.utils.scope import type_name

from .base import TeachingDistiller, scale_losses


class Frozen:
    """Holds a module that is used but never trained, saved or copied.

    It is no ``nn.Module``, so the module's weights are neither parameters nor
    in the state dict of whoever holds this, and ``train()`` does not reach it.
    Deep copies, as EMA makes, share it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module.eval().requires_grad_(False)
        # Those that ask for the mode themselves, not the norms and dropout in them.
        parts = list(module.modules())
        self._asking = [part for part in parts if hasattr(part, 'loss_by_feat')]
        if self._asking:  # dense heads
            models = [part for part in parts if isinstance(part, BaseModel)]
            backbones = (getattr(model, 'backbone', None) for model in models)
            self._asking += [part for part in backbones if part is not None]

    @contextmanager
    def heads_as_in_training(self) -> Iterator[None]:
        """Let dense heads, and what feeds them, give what their losses take."""
        for part in self._asking:
            part.training = True
        try:
            yield
        finally:
            for part in self._asking:
                part.training = False

    def __deepcopy__(self, memo: dict) -> 'Frozen':
        return self


@MODELS.register_module()
class PretrainedTeacher(TeachingDistiller):
    r"""Teach the student with the logits and features of a trained model.

    .. math::
        L = w L_{task}(z_s, y) + \alpha L_{KD}(z_s, z_t) + \beta L_F(F_s, F_t)

    All terms train the student (and the adapters of L_F). The teacher is
    frozen, its norms and dropout are in eval mode, and it is never saved: its weights
    come from
    ``checkpoint``, at every start, by ``init_weights()``, so testing and
    exporting need no teacher. It sees the student's images as its own data
    preprocessor would give them, with its mean, standard deviation and order of
    channels; if its config has none, as the student's gives them.

    For dense prediction the teacher has the student's kind of head, which gives what
    it gives in training: in eval mode some give other things than their own loss
    takes, such as probabilities after NMS or boxes in pixels.

    Paper: Distilling the Knowledge in a Neural Network, NIPS 2014 workshop,
    https://arxiv.org/abs/1503.02531
    Source: HobbitLong/RepDistiller@b84f547, helper/loops.py

    Args:
        student (BaseModel): The built student, given by ``Distilled``.
        student_cfg (ConfigDict): Its config, given by ``Distilled``.
        soft_label (dict): L_KD; its ``loss_weight`` is alpha.
        teacher (dict | str): The teacher's model config, or a config file
            with one. Of a distilled model, the student is the teacher.
        self_teacher (bool): Of a model that was distilled by ``FRSKD``, the
            self-teacher is the teacher. It sees the labels if it was trained so:
            the two stages of label-assisted distillation. Defaults to False.
        checkpoint (str): Its weights, a path or a URL.
        feature_loss (dict, optional): L_F, ``AttentionTransferLoss``,
            ``FitNetLoss`` or ``OverhaulLoss`` (with ``margin='batch'``); its
            ``loss_weight`` is beta. None by default: logits alone.
        student_loss_weight (float): w. Defaults to 1.0.
        weight_schedule (dict, optional): Factor on alpha and beta over time,
            see ``WeightSchedule``. Constant by default.
        source (str, optional): Part whose output L_F compares, 'backbone' or
            'neck'. The default depends on the task.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward.
        stages (Sequence[str | int], optional): Which maps of the student L_F
            compares where its backbone returns one or none, see ``FRSKD``.
        teacher_stages (Sequence[str | int], optional): The same of the teacher.
        cross_head (int, optional): CrossKD, see ``FRSKD``, through the teacher's head
            instead of the twin's. None by default.

    Raises:
        ValueError: If teacher and student do not fit, the checkpoint does not fit
            the teacher, or the student's images cannot be turned into the teacher's.
        FileNotFoundError: If the checkpoint does not exist.
    """

    reads_levels = True

    @check_arguments(student_loss_weight=NOT_NEGATIVE, input_size=at_least(1))
    def __init__(
        self,
        student: BaseModel,
        student_cfg: ConfigDict,
        soft_label: dict,
        teacher: Union[dict, str, None] = None,
        checkpoint: Optional[str] = None,
        feature_loss: Optional[dict] = None,
        student_loss_weight: float = 1.0,
        weight_schedule: Optional[dict] = None,
        source: Optional[str] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
        teacher_stages: Optional[StageNames] = None,
        cross_head: Optional[int] = None,
        self_teacher: bool = False,
    ) -> None:
        super().__init__(student, weight_schedule, cross_head)
        if not teacher or not checkpoint:
            raise ValueError(
                'PretrainedTeacher needs a trained teacher. Set '
                "distiller.teacher='its/config.py' (or its model config) and "
                "distiller.checkpoint='its/weights.pth'."
            )
        self.checkpoint = checkpoint
        self.student_loss_weight = student_loss_weight
        self.levels: Optional[Levels] = None
        self.teacher_levels: Optional[Levels] = None
        self.soft_label = MODELS.build(soft_label)
        self.self_teacher = self_teacher
        teacher_cfg = _teacher_cfg(teacher, self_teacher)
        self._frozen = Frozen(MODELS.build(ConfigDict(teacher_cfg)))
        self._has_weights = False
        self.task.check_teacher(self.teacher)
        if self.soft_label.loss_weight and not self_teacher:
            self._check_outputs_pair(student)
        if cross_head is not None:
            # A self-teacher's outputs are recorded by its own distiller.
            task = self.teacher.distiller.task if self_teacher else self.task
            task.cut_heads(self.teacher, cross_head)
        _check_classes(student, self.teacher)
        self.renormalize = None
        if any(
            part.get('data_preprocessor')
            for part in (teacher_cfg, teacher_cfg.get('student', {}))
        ):
            self.renormalize = renormalizer(
                student.data_preprocessor, self.teacher.data_preprocessor
            )
        self.feature_loss = None
        if feature_loss is not None:
            self.levels = self.task.find_levels(student, source, input_size, stages)
            if self_teacher:
                self.teacher_levels = self.teacher.distiller.levels
            else:
                self.teacher_levels = self.task.find_levels(
                    self.teacher, source, input_size, teacher_stages
                )
            in_channels, out_channels = self._pair_levels()
            if self_teacher:
                out_channels = self.teacher.distiller.self_teacher.out_channels
            self.feature_loss = build_feature_loss(
                feature_loss, in_channels=in_channels, out_channels=out_channels
            )
            if self_teacher and self.feature_loss.preact:
                raise ValueError(
                    f'{type(self.feature_loss).__name__} compares maps before their '
                    'ReLU, which a frozen self-teacher does not keep. Set another '
                    'feature_loss in the distiller, or remove self_teacher.'
                )

    @property
    def teacher(self) -> BaseModel:
        """The frozen teacher."""
        return self._frozen.module

    def loss(
        self, student: BaseModel, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the three terms, see :class:`BaseDistiller`."""
        student_pass = self.run_student(
            student, inputs, data_samples, self.levels, self.preact
        )
        losses = scale_losses(student_pass.losses, self.student_loss_weight)
        if not self.acts():
            return losses
        # A trial must draw no numbers, of which proposals and points need some.
        with nullcontext() if self.acts(tries=False) else isolated_rng():
            teacher_pass = self.run_teacher(inputs, data_samples, student_pass)
        return {
            **losses,
            **self.soft_label_term(student_pass, teacher_pass, data_samples),
            **self.feature_term(student_pass, teacher_pass, data_samples),
        }

    @torch.no_grad()
    def run_teacher(
        self, inputs: Tensor, data_samples: Sequence[Any], student_pass: Pass
    ) -> Pass:
        """Run the teacher on the student's images."""
        if not self._has_weights:
            raise RuntimeError(
                'The teacher has no weights yet: call init_weights() of the '
                'distilled model, as the runner does, before training.'
            )
        teacher = self.teacher
        if next(teacher.parameters()).device != inputs.device:
            teacher.to(inputs.device)  # FSDP moves without _apply
        if self.renormalize is not None:
            inputs = self.renormalize(inputs, data_samples)
        if self.self_teacher:
            return self._run_self_teacher(inputs, data_samples, student_pass)
        with self._frozen.heads_as_in_training():
            return self.task.run(
                teacher,
                teacher.loss,
                inputs,
                data_samples,
                self.teacher_levels,
                self.preact,
                follow=student_pass,
            )

    def _run_self_teacher(
        self, inputs: Tensor, data_samples: Sequence[Any], student_pass: Pass
    ) -> Pass:
        """Run the teacher's self-teacher on the teacher's maps."""
        teacher = self.teacher
        distiller = teacher.distiller
        with self._frozen.heads_as_in_training():
            below = self.task.run(
                teacher,
                teacher.host_loss,
                inputs,
                data_samples,
                distiller.levels,
                follow=student_pass,
            )
            return distiller.run_self_teacher(teacher, below, data_samples)

    def compare_outputs(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Tensor:
        """Apply L_KD; heads that go on with the student's maps are the teacher's."""
        with self._frozen.heads_as_in_training():
            return super().compare_outputs(student, teacher, data_samples)

    def _check_outputs_pair(self, student: BaseModel) -> None:
        """Refuse a teacher whose heads do not give what the student's do."""
        own, others = (
            self.task.output_targets(model) for model in (student, self.teacher)
        )
        if own.keys() - others.keys():
            raise TypeError(
                f'The heads of the teacher, a {type(self.teacher).__name__}, do not '
                f'give what those of the student, a {type(student).__name__}, give, so '
                'soft labels have nothing to compare. Use a teacher with heads of the '
                'same kind, or features alone: soft_label.loss_weight=0 and the '
                "distiller's feature_loss."
            )

    def init_weights(self) -> None:
        """Initialise the adapters and load the teacher's weights."""
        super().init_weights()
        _load_weights(self.teacher, self.checkpoint, self.self_teacher)
        self._has_weights = True

    def _apply(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Move the teacher along when the model moves to a device."""
        self.teacher._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def _pair_levels(self) -> Tuple[Sequence[int], Sequence[int]]:
        """Return the channels of the student's and of the teacher's maps."""
        both = [self.levels, self.teacher_levels]
        shapes = [levels.shapes for levels in both if levels is not None]
        sizes = [[tuple(size) for _, *size in levels] for levels in shapes]
        if sizes[0] != sizes[1]:
            names = [[s.name for s in levels.stages] for levels in both if levels]
            raise ValueError(
                'The feature maps of student and teacher must pair up: as many '
                'levels of equal sizes. Sizes of the student: '
                f'{sizes[0]} ({", ".join(names[0])}), of the teacher: {sizes[1]} '
                f'({", ".join(names[1])}). Set stages and teacher_stages of the '
                'distiller, or out_indices of the backbones, so that they agree, or '
                'distil logits alone (feature_loss=None).'
            )
        in_channels, out_channels = (
            [channels for channels, *_ in levels] for levels in shapes
        )
        return in_channels, out_channels


def _teacher_cfg(teacher: Union[dict, str], self_teacher: bool) -> Dict[str, Any]:
    """Return the teacher's model config, with what preprocesses its images.

    Raises:
        ValueError: If a self-teacher is asked for and the model has none.
    """
    cfg: Any = teacher
    preprocessor = None
    if isinstance(teacher, str):
        whole = Config.fromfile(teacher)
        # Where mmpretrain keeps it.
        cfg, preprocessor = whole.model, whole.get('data_preprocessor')
    if type_name(cfg['type']) in ('Distilled', 'distill'):
        preprocessor = cfg.get('data_preprocessor') or preprocessor
        if not self_teacher:
            cfg = cfg['student']
    has_self_teacher = type_name(cfg.get('distiller', {}).get('type')) == 'FRSKD'
    if self_teacher and not has_self_teacher:
        raise ValueError(
            'self_teacher=True of PretrainedTeacher needs a model that was distilled '
            f'by FRSKD, but distiller.teacher is a {type_name(cfg["type"])}. Name the '
            'config that frskd train --method frskd or label-assisted left in its '
            'work_dir, or remove self_teacher.'
        )
    if preprocessor and not cfg.get('data_preprocessor'):
        return {**cfg, 'data_preprocessor': preprocessor}
    return dict(cfg)


def _check_classes(student: BaseModel, teacher: BaseModel) -> None:
    counts = [
        max(
            (
                module.num_classes
                for module in model.modules()
                if isinstance(getattr(module, 'num_classes', None), int)
            ),
            default=None,
        )
        for model in (student, teacher)
    ]
    if counts[0] != counts[1]:
        raise ValueError(
            f'The student has {counts[0]} classes and the teacher {counts[1]}. A '
            "teacher's soft labels must be over the student's classes: set "
            'num_classes of the heads, and use a teacher trained on this dataset.'
        )


def _load_weights(teacher: BaseModel, checkpoint: str, distiller: bool) -> None:
    """Load a checkpoint strictly, by default but for a distiller's part of it.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it does not fit the teacher.
    """
    if '://' not in checkpoint and not Path(checkpoint).is_file():
        raise FileNotFoundError(
            f'No checkpoint of the teacher at {checkpoint}. Train the teacher first '
            '(frskd train with its own config), or set distiller.checkpoint to '
            'the file that you have.'
        )
    with checkpoints_as_data():
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    others = ('data_preprocessor.', *(() if distiller else ('distiller.',)))
    weights = select_weights(
        weights_of(loaded), lambda name: not name.startswith(others)
    )
    try:
        teacher.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f'{checkpoint} does not fit the config of the teacher: set '
            f'distiller.teacher to the config it was trained with. {error}'
        ) from error
    print_log(f'Teacher: {len(weights)} tensors from {checkpoint}.', logger='current')
