"""What is measured: a plain student, methods beside it, and foreign steps."""

import os.path as osp
from copy import deepcopy
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, Union

from mmengine.config import Config

from frskd_mm.engine.config import configure_run
from frskd_mm.engine.wrap import student_config, wrap
from frskd_mm.lab.peak import find_function
from frskd_mm.lab.trial import find_num_classes, without_weights
from frskd_mm.models.distilled import is_distilled
from frskd_mm.utils.environment import DETECTION_SCOPES
from frskd_mm.utils.image_size import find_image_size

from .steps import CHANNELS_LAST, ForeignStep, TrainingStep, Workload


class Arm(NamedTuple):
    """One of the training steps that are measured in turns."""

    name: str
    num_classes: int
    #: Training config, or None for a foreign step.
    cfg: Optional[Config] = None
    #: Name of the arm whose time this one's is divided by, if any.
    baseline: str = ''
    #: ``module:function`` of a foreign step.
    foreign: Optional[str] = None

    @property
    def has_method(self) -> bool:
        """Whether it is a student with a method; label smoothing is one, too."""
        return self.baseline not in ('', self.name)

    @property
    def is_distilled(self) -> bool:
        """Whether a student can be taken out of it."""
        return self.cfg is not None and is_distilled(self.cfg.model)

    def build(self, workload: Workload) -> Union[TrainingStep, ForeignStep]:
        """Build model, optimiser and batch."""
        if self.foreign:
            return ForeignStep(self.foreign, workload, self.num_classes)
        return TrainingStep(self.cfg, workload, self.num_classes)


def plan_arms(
    configs: Sequence[Config],
    methods: Sequence[str] = (),
    against: Sequence[str] = (),
) -> List[Arm]:
    """Return what is to be measured, each plain student before its methods.

    The plain student of a distilled config is its ``student`` on the same recipe.
    A student that several configs share is there once.

    Args:
        configs: Training configs with their ``filename``.
        methods: Methods to wrap plain configs with, as ``frskd train`` names
            them.
        against: Foreign steps, ``module:function``.

    Raises:
        ValueError: If a config has no model or optimiser, or methods are given
            for a distilled one, or a foreign function is not found.
    """
    arms: List[Arm] = []
    for cfg in configs:
        check_config(cfg)
        name = _name(cfg)
        if is_distilled(cfg.model):
            if methods:
                raise ValueError(
                    f'{name} is of a distilled model. Leave --method out, or give '
                    'the config of its plain student.'
                )
            plain, distilled = student_config(cfg), {name: cfg}
            plain_name = f'student of {name}'
        else:
            plain, plain_name = cfg, name
            wrapped = [wrap(cfg, method) for method in methods]
            if methods and 'distiller' in cfg.model:  # settings for the methods
                plain = deepcopy(cfg)
                del plain.model['distiller']
            distilled = {_name(own): own for own in wrapped if own is not cfg}
        num_classes = find_num_classes(plain.model)
        same = [arm.name for arm in arms if arm.cfg and _same_recipe(arm.cfg, plain)]
        if same:
            plain_name = same[0]
        else:
            arms.append(Arm(plain_name, num_classes, plain, baseline=plain_name))
        arms += [
            Arm(key, num_classes, value, baseline=plain_name)
            for key, value in distilled.items()
        ]
    for name in against:
        find_function(name)  # refuses what is not there before anything is run
        arms.append(Arm(name, arms[0].num_classes, foreign=name))
    names = [arm.name for arm in arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'Given twice: {", ".join(twice)}.')
    return arms


def _name(cfg: Config) -> str:
    return osp.splitext(osp.basename(cfg.filename or 'config'))[0]


def check_config(cfg: Config) -> None:
    """Refuse a config that cannot train.

    Raises:
        ValueError: Says what it lacks.
    """
    for key in ('model', 'optim_wrapper'):
        if not isinstance(cfg.get(key), dict):
            raise ValueError(
                f'{cfg.filename or "The config"} has no {key}=dict(...). A benchmark '
                'trains: give a complete config, not one of the files that others '
                'inherit.'
            )


def _same_recipe(one: Config, other: Config) -> bool:
    keys = (
        *('model', 'optim_wrapper', 'data_preprocessor'),
        *('compile', 'custom_hooks', 'activation_checkpointing'),
    )
    return all(one.get(key) == other.get(key) for key in keys)


def choose_image_size(arms: Sequence[Arm]) -> Tuple[int, int]:
    """Return the height and width that the configs train with.

    Raises:
        ValueError: If they name none or differ.
    """
    sizes = {arm.name: find_image_size(arm.cfg) for arm in arms if arm.cfg}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f'The configs train with images of different sizes: {sizes}. Give '
            '--image-size HEIGHT WIDTH.'
        )
    return next(iter(sizes.values()))


def configure_arms(
    arms: Sequence[Arm], image_size: Tuple[int, int], **options: Any
) -> List[Arm]:
    """Apply :func:`configure` to all arms that have a config."""
    return [
        arm._replace(cfg=configure(arm.cfg, image_size, **options)) if arm.cfg else arm
        for arm in arms
    ]


def configure(
    cfg: Config,
    image_size: Tuple[int, int],
    amp: bool = False,
    compiled: bool = False,
    channels_last: Optional[bool] = None,
) -> Config:
    """Return a config whose training step costs what it costs in training.

    Pretrained weights are left out, all distillation terms act from the first
    step on, and images keep the given size.

    Args:
        cfg: Training config; left as it is.
        image_size: Height and width.
        amp: Train with automatic mixed precision.
        compiled: Compile the step, as ``compile=True`` of the config does.
        channels_last: Memory layout; None leaves it to the config's hooks.
    """
    cfg = deepcopy(cfg)
    cfg.load_from = None
    without_weights(cfg.model)
    cfg.model.get('distiller', {}).pop('weight_schedule', None)
    for model in (cfg.model, cfg.model.get('student', {})):
        preprocessor = model.get('data_preprocessor') or {}
        if cfg.get('default_scope') == 'mmseg' and 'size' in preprocessor:
            preprocessor['size'] = image_size
        if cfg.get('default_scope') in DETECTION_SCOPES:
            preprocessor.pop('batch_augments', None)  # they pad to the full size
    if compiled:
        cfg.compile = cfg.get('compile') or True
    if channels_last is not None:
        hooks = cfg.get('custom_hooks') or []
        hooks = [hook for hook in hooks if hook['type'] != CHANNELS_LAST]
        if channels_last:
            hooks.append(dict(type=CHANNELS_LAST, devices=('cpu', 'cuda')))
        cfg.custom_hooks = hooks
    return configure_run(cfg, work_dir='', amp=amp)
