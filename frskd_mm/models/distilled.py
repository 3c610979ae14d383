"""The distilled model: the student itself, plus a distiller."""

from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache, partial
from typing import (
    Any,
    Dict,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    SupportsIndex,
    Tuple,
    Type,
)

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from frskd_mm.models.self_teacher import SelfTeacher
from frskd_mm.models.tasks.base import sample_name
from frskd_mm.registry import MODELS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.checkpoint import (
    as_converted,
    find_misfits,
    summarize_misfits,
)
from frskd_mm.utils.compiling import is_compiling
from frskd_mm.utils.random import isolated_rng
from frskd_mm.utils.recorder import bind_forward, shadow, unshadow
from frskd_mm.utils.scope import drop_own_scope, is_own

DISTILLED = 'frskd_mm.Distilled'
DISTILLER_PREFIX = 'distiller.'
#: Of a backbone's tensors, how many pretrained weights have to fit.
LEAST_SHARE = 0.5
#: How many tensors that the model does not have are no sign of another one, of its own.
SPARE_SHARE = 0.02
#: What mmseg's init_model empties in the config of any model.
EMPTIED = ('pretrained', 'train_cfg')


class Distilled(BaseModel):
    """Mixin that turns a host library's model into a distilled one.

    The distilled model's class is made on the spot, a subclass of this mixin
    and of the student's own class. It *is* the student, with one more
    submodule, ``distiller``, and only the losses overridden. Prediction,
    hooks, EMA and parameter-wise settings go on as before, and the state dict
    has the student's own keys beside those that start with ``distiller.``.

    Built from ``dict(type='frskd_mm.Distilled', ...)``, see :func:`distill`.
    """

    #: The student's own class.
    student_class: Type[BaseModel]
    #: On accelerators a check of the batch costs a synchronisation, so only
    #: every so many steps are checked there. On the CPU all are.
    check_interval = 50
    #: Whether the weights loaded last were a plain student's.
    loaded_plain: bool
    _batches_seen: int
    #: Identity of the images that :func:`_before_forward` has checked.
    _checked: Optional[int]

    def loss(self, inputs: Tensor, data_samples: Sequence[Any]) -> Dict[str, Tensor]:
        """Compute the student's terms and the distiller's.

        Args:
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: Their N annotations.

        Returns:
            dict[str, Tensor]: Terms to optimise and values to log.

        Raises:
            ValueError: If an input is not finite or a label out of range. Not in
                compiled code, see :func:`_before_forward`.
        """
        if not is_compiling():
            if self._checked != id(inputs):
                self._check_batch(inputs, data_samples)
            self._checked = None
        return self.distiller.loss(self, inputs, data_samples)

    def host_loss(
        self, inputs: Tensor, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Compute the host library's own loss of the student."""
        return super().loss(inputs, data_samples)

    def parse_losses(
        self, losses: Dict[str, Tensor]
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Sum up what is optimised, and name what is logged.

        MMEngine logs the mean since the last line of values whose names contain
        'loss', and the last value of others. What the plain student would log as
        its 'loss' is renamed to 'student.task_loss' once the sum, which takes the
        same names, is made: so both are means.
        """
        total, log = super().parse_losses(losses)
        if 'student.task' in log:
            log['student.task_loss'] = log.pop('student.task')
        return total, log

    def init_weights(self) -> None:
        """Initialise the student as if it were alone, then the distiller.

        MMEngine applies a model's own ``init_cfg`` to all its submodules. With
        the distiller among them, its draws would change the student's.
        """
        distiller = self._modules.pop('distiller')
        try:
            super().init_weights()
        finally:
            self.distiller = distiller
        distiller.init_weights()

    @property
    def self_teacher_predicts(self) -> bool:
        """Whether there is a self-teacher that can predict without labels."""
        has_one = hasattr(self.distiller, 'predict')
        return has_one and getattr(self.distiller, 'predicts_without_labels', True)

    @contextmanager
    def as_self_teacher(self) -> Iterator[None]:
        """Predict with the self-teacher within the ``with`` block."""
        if not hasattr(self.distiller, 'predict'):
            raise TypeError(f'{type(self.distiller).__name__} has no self-teacher.')
        shadow(self, 'predict', partial(self.distiller.predict, self))
        try:
            yield
        finally:
            unshadow(self, 'predict')

    def _check_batch(self, inputs: Tensor, data_samples: Sequence[Any]) -> None:
        """Refuse inputs that are not finite and labels out of range.

        Raises:
            ValueError: If there are such.
        """
        step, self._batches_seen = self._batches_seen, self._batches_seen + 1
        if inputs.device.type != 'cpu' and step % self.check_interval:
            return
        finite = torch.isfinite(inputs).flatten(1).all(dim=1)
        if not finite.all():
            bad = [i for i, good in enumerate(finite.tolist()) if not good]
            names = [sample_name(data_samples[i]) for i in bad]
            raise ValueError(
                f'Input image(s) {bad} of the batch contain NaN or infinite values '
                f'({", ".join(names)}). Check these files, and mean and std of '
                'the data_preprocessor. The weights were not touched.'
            )
        self.distiller.task.check_labels(self, data_samples)

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple:
        """Support copying and pickling, although the class is made on the spot."""
        return _empty_instance, (self.student_class,), self.__dict__


@lru_cache(maxsize=None)
def distilled_class(student_class: type) -> Type[Distilled]:
    """Return the distilled subclass of a host library's model class."""
    return type(
        f'Distilled{student_class.__name__}',
        (Distilled, student_class),
        {'student_class': student_class, '__module__': __name__},
    )


def _empty_instance(student_class: type) -> Distilled:
    cls = distilled_class(student_class)
    return cls.__new__(cls)


def is_distilled(model: Mapping[str, Any]) -> bool:
    """Whether a model's config is that of :class:`Distilled`.

    Args:
        model: Its type is the name, or :func:`distill` in a pure Python config.
    """
    kind = model.get('type')
    return is_own(kind, 'Distilled') or is_own(kind, distill.__name__)


@MODELS.register_module(name='Distilled')
@check_arguments('Distilled')
def distill(
    student: dict,
    distiller: dict,
    data_preprocessor: Optional[dict] = None,
    **others: Any,
) -> BaseModel:
    """Build a student and give it a distiller.

    Args:
        student (dict): Config of any upstream model.
        distiller (dict): Config of the method, such as ``FRSKD``.
        data_preprocessor (dict, optional): Preprocessing at the config's top
            level, where mmpretrain keeps it. MMEngine's runner hands it on;
            it becomes the student's unless the student has its own.
        **others: Nothing else is taken, but for the settings that mmseg's
            ``init_model`` sets to None in every model's config.

    Returns:
        BaseModel: An instance of the student's class and of
        :class:`Distilled`.

    Raises:
        TypeError: If the student is not a model of a host library, or there are
            other settings.
        ValueError: If student and distiller do not fit.
    """
    unknown = [
        key for key, value in others.items() if key not in EMPTIED or value is not None
    ]
    if unknown:
        raise TypeError(
            "model=dict(type='frskd_mm.Distilled') takes student and distiller, not "
            f'{", ".join(unknown)}. Is a key misspelt, or _delete_=True missing '
            "where the model is replaced? A host library's function that sets it "
            'needs the plain student: frskd export writes its config and '
            'weights.'
        )
    student_cfg = ConfigDict(deepcopy(student))
    if data_preprocessor is not None:
        student_cfg.setdefault('data_preprocessor', data_preprocessor)
    model = MODELS.build(deepcopy(student_cfg))
    if isinstance(model, Distilled):
        raise TypeError('The student is distilled already: unwrap its config.')
    distiller = deepcopy(distiller)
    drop_own_scope(distiller)  # the twin's types are the host's
    with isolated_rng():
        built = MODELS.build(
            distiller, default_args=dict(student=model, student_cfg=student_cfg)
        )
        built.check_outputs(model)
    student_class: type = type(model)
    model.__class__ = distilled_class(student_class)
    model.distiller = built
    model._batches_seen = 0
    model._checked = None
    model.loaded_plain = False
    model._register_load_state_dict_pre_hook(_check_checkpoint, with_module=True)
    model.backbone._register_load_state_dict_pre_hook(
        _check_backbone_weights, with_module=True
    )
    model.register_forward_pre_hook(_before_forward, with_kwargs=True)
    for part in model.modules():
        if isinstance(part, (BaseModel, SelfTeacher)):
            for child in part.children():
                bind_forward(child)
    if built.levels is not None:
        for module in built.levels.modules(model).values():
            bind_forward(module)
    return model


def _before_forward(model: Distilled, args: tuple, kwargs: Dict[str, Any]) -> None:
    """Do what cannot be traced, so that ``model.forward`` can be compiled.

    A compiled ``forward`` is set on the instance, and its batches are checked here.
    Where ``torch.compile`` takes in the call of the model as well, as MMEngine's
    ``compile=True`` does, batches are not checked, and a weight schedule that is
    not constant splits the graph here, before the student.
    """
    names = ('inputs', 'data_samples', 'mode')
    call = {**dict(zip(names, args)), **kwargs}
    if call.get('mode') != 'loss':
        return
    if 'forward' in model.__dict__ and not is_compiling():
        model._check_batch(call['inputs'], call['data_samples'])
        # A forward that is not compiled, as profilers set, ends in loss(), too.
        model._checked = id(call['inputs'])
    if not is_compiling():
        model.distiller.before_forward(model)
    schedule = model.distiller.weight_schedule
    if not schedule.is_constant:
        schedule.refresh()


def _check_checkpoint(
    model: Distilled, state_dict: dict, prefix: str, *args: Any
) -> None:
    """Refuse another backbone's checkpoint, and report what of a plain one fits.

    MMEngine's loading only warns of what does not fit. The heads may differ, as
    when pretrained weights are fine-tuned on other classes. A backbone that
    differs means that the file is of another model. A part of the model's own that
    has no layer of the backbone, such as the norms that mmdet's SyncNormHook loads,
    is none.

    Raises:
        ValueError: If a backbone tensor is missing or of another shape, or more than
            a few are unknown.
    """
    given = {
        key[len(prefix) :]: value
        for key, value in state_dict.items()
        if key.startswith(prefix)
    }
    model.loaded_plain = not any(key.startswith(DISTILLER_PREFIX) for key in given)
    own = model.state_dict()
    for key in [key for key in own if key.startswith(DISTILLER_PREFIX)]:
        value = own.pop(key)
        if model.loaded_plain:
            # The distiller keeps what it has, and is not reported as missing.
            state_dict[prefix + key] = value
        given.pop(key, None)
    converted = as_converted(model, given)
    misfits = find_misfits(own, converted)
    has_layers = any(
        key.startswith('backbone.') and value.dim() > 1
        for key, value in converted.items()
    )
    refused = {
        kind: [key for key in keys if key.startswith('backbone.')]
        for kind, keys in misfits.items()
    }
    fits = not (misfits['unknown'] or misfits['of another shape'])
    if given and fits and not has_layers:
        refused['missing'] = []
    # Pre-training leaves a token of its own; a deeper network has far more besides.
    if len(refused['unknown']) <= SPARE_SHARE * len(own):
        refused['unknown'] = []
    if any(refused.values()):
        raise ValueError(
            'The checkpoint does not fit the backbone of '
            f'{model.student_class.__name__}: {summarize_misfits(refused)}. Load '
            'weights of the same architecture, or change student.backbone.'
        )
    if not model.loaded_plain:
        return
    matched = len(own.keys() & given.keys()) - len(misfits['of another shape'])
    print_log(
        f'Plain weights: {matched} of {len(own)} tensors of the student loaded; '
        f'{summarize_misfits(misfits) or "none left over"}. The distiller keeps its '
        'initialisation.',
        logger='current',
    )


def _check_backbone_weights(
    backbone: nn.Module, state_dict: dict, prefix: str, *args: Any
) -> None:
    """Refuse another model's weights, as ``init_cfg`` of a backbone loads them.

    Some weights are left over rightly: the file's head, norms that the file's model
    does not have. But of another model few fit.

    Raises:
        ValueError: If most tensors of the backbone find none that fits.
    """
    if prefix:
        return  # the whole model is loaded, and checked
    own = backbone.state_dict()
    misfits = find_misfits(own, as_converted(backbone, state_dict))
    unfit = len(misfits['missing']) + len(misfits['of another shape'])
    if unfit > (1 - LEAST_SHARE) * len(own):
        raise ValueError(
            f'The pretrained weights are not those of a {type(backbone).__name__} of '
            f'this form: {summarize_misfits(misfits)}. Load weights of the same '
            'architecture, or change student.backbone: its init_cfg names the file.'
        )
