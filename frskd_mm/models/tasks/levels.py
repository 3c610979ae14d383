"""The levels of a student: feature maps that are recorded while it runs."""

from dataclasses import dataclass, field, replace
from inspect import unwrap
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from frskd_mm.utils.compiling import is_compiling
from frskd_mm.utils.forms import Form, Size, read_form
from frskd_mm.utils.recorder import Recorder, Target

from .stages import (
    CallRecorder,
    Stage,
    choose_levels,
    find_stages,
    first_output,
    in_order,
)

#: Names of modules, or indices into what is printed as the choice.
StageNames = Sequence[Union[str, int]]
SINGLE = (str, int)


@dataclass
class Levels:
    """Which maps of a student are read, and what its own outputs have of them.

    Attributes:
        source: 'backbone' or 'neck', in which they are.
        stages: One a level, fine to coarse. Without any, the source's own outputs
            are the levels, whatever they are.
        channels: Those of the source's own outputs, in training.
        template: The source's own output in training: nested lists in which each
            map is a dict of its level and form. None if it is just the levels.
        eval_template: The same in eval mode.
        outputs: The levels that those maps are.
        choice: What stages there are to choose from; none if there is no choice.
        plain: Whether all of these have one size.
    """

    source: str
    stages: List[Stage] = field(default_factory=list)
    channels: List[int] = field(default_factory=list)
    template: Any = None
    eval_template: Any = None
    outputs: List[int] = field(default_factory=list)
    choice: List[Stage] = field(default_factory=list)
    plain: bool = False

    @property
    def shapes(self) -> List[Tuple[int, ...]]:
        """(C, H, W) a level in the dry forward."""
        return [stage.shape for stage in self.stages]

    @property
    def are_outputs(self) -> bool:
        """Whether the levels are just what the source returns."""
        return not any(stage.own is None for stage in self.stages)

    def modules(self, model: BaseModel) -> Dict[str, nn.Module]:
        """Return the inner modules whose outputs are levels, by their name."""
        source = getattr(model, self.source)
        paths = [stage.path for stage in self.stages if stage.own is None]
        return {path: source.get_submodule(path) for path in paths}

    def targets(self, model: BaseModel) -> Dict[str, Target]:
        """Return what is recorded beside the source's own output."""
        return {
            f'feats.{path}': (module, 'forward')
            for path, module in self.modules(model).items()
        }

    def read(
        self, record: Recorder, image_size: Size, name: str = 'feats'
    ) -> Tuple[Tensor, ...]:
        """Return the maps of the newest run, per level (N, C, H, W).

        Args:
            record: Of the source ('feats') and of :meth:`targets`.
            image_size: Height and width of the images.
            name: 'preacts' for the maps before their last ReLU.

        Raises:
            RuntimeError: If a stage had no gradient to be trained by.
        """
        own = as_levels(record.last(name))
        if not self.stages:
            return own
        training = record.targets['feats'][0].training
        maps = []
        for stage in self.stages:
            index = stage.own_in_training if training else stage.own
            if index is None:
                value = first_output(record.last(f'{name}.{stage.path}'))
                module, _ = record.targets[f'feats.{stage.path}']
                if not is_compiling() and _lacks_gradient(value, module, own):
                    raise RuntimeError(_no_gradient(stage))
            else:
                value = first_output(own[index])
            maps.append(stage.form.to_map(value, image_size))
        return tuple(maps)

    def describe(self) -> List[str]:
        """Say which stages are levels, why, and how to choose others."""
        if self.are_outputs:
            return []
        chosen = ', '.join(stage.name for stage in self.stages)
        why = (
            'at even distances, since all maps have one size'
            if self.plain
            else 'of each map size the deepest'
        )
        choice = [stage.path for stage in self.choice if stage.own is None]
        return [
            f'{self.source} does not return several maps; recorded as it runs, {why}: '
            f'{chosen}',
            "Others: the distiller's stages, names of its modules or indices of "
            f'{", ".join(choice)}',
        ]


def as_levels(feats: Any) -> Tuple[Tensor, ...]:
    """Return a source's output as a tuple of maps."""
    return (feats,) if isinstance(feats, Tensor) else tuple(feats)


def reads_training_mode(module: nn.Module) -> bool:
    """Whether a module's own forward asks if it is in training mode."""
    code = getattr(unwrap(type(module).forward), '__code__', None)
    return code is not None and 'training' in code.co_names


def levels_of_outputs(source: str, output: Any) -> Levels:
    """Return the levels of a source that returns several maps (N, C, H, W)."""
    feats = as_levels(output)
    stages = [
        Stage('', Form('map'), tuple(feat.shape[1:]), own, own)  # type: ignore
        for own, feat in enumerate(feats)
    ]
    return Levels(
        source,
        stages,
        [stage.shape[0] for stage in stages],
        outputs=list(range(len(stages))),
    )


def find_levels(
    source: str,
    output: Any,
    training_output: Any,
    record: CallRecorder,
    image_size: Size,
    extra: Optional[int] = None,
    names: Optional[StageNames] = None,
) -> Levels:
    """Choose the levels of a source that does not return several maps.

    Args:
        source: 'backbone' or 'neck'.
        output: What it returned for one image, in eval mode.
        training_output: What it returns in training mode.
        record: The runs of its parts in training mode.
        image_size: Height and width of the image.
        extra: Number of tokens beside a map's, if it is known.
        names: The stages that the user has chosen.

    Raises:
        ValueError: If there are no such stages.
    """
    grids = record.read(image_size, extra)
    stages, plain = find_stages(record.calls, image_size)
    width = stages[-1].shape[0] if stages else None
    own = [
        replace(stage, own_in_training=_index(output, training_output, stage.own))
        for stage in _own_stages(output, image_size, grids, extra, width)
    ]
    if len(own) > 1 and names is None:
        chosen, stages = list(own), []
    else:
        main = own[-1] if own else None
        if not plain:
            stages, plain = find_stages(record.calls, image_size, main)
        if names is None:
            chosen = choose_levels(stages, plain, main)
        else:
            chosen = _named(names, stages, record, source)
            chosen = in_order([*chosen, main] if main else chosen)
    extras = _training_only(output, training_output, record, chosen)
    chosen = in_order([*chosen, *extras]) if extras else chosen
    maker = _TemplateMaker(chosen, record, image_size)
    template = maker.make(training_output, training=True)
    top = template if isinstance(template, list) else [template]
    if len(top) == 1 and isinstance(top[0], list):
        top = top[0]  # what is for one head
    leaves = [_first_leaf(part) for part in top]
    return Levels(
        source,
        chosen,
        [leaf['channels'] if leaf else 0 for leaf in leaves],
        template,
        maker.make(output, training=False),
        [leaf['level'] if leaf else 0 for leaf in leaves],
        choice=stages,
        plain=plain,
    )


def _own_stages(
    output: Any,
    image_size: Size,
    grids: Sequence[Size],
    extra: Optional[int],
    channels: Optional[int],
) -> List[Stage]:
    """Return the maps among a source's own outputs."""
    stages = []
    for index, value in enumerate(as_levels(output)):
        value = first_output(value)
        found = read_form(value, image_size, grids, extra, channels)
        is_map = isinstance(value, Tensor) and value.dim() == 4
        if is_map and found is None:  # whatever it is, it is what the head reads
            found = Form('map'), tuple(value.shape[1:])  # type: ignore[assignment]
        if found is None or _is_pooled(found[1], grids):
            continue
        if is_map:
            found = Form('map'), tuple(value.shape[1:])  # type: ignore[assignment]
        stages.append(Stage('', *found, own=index))
    return stages


def _is_pooled(shape: Sequence[int], grids: Sequence[Size]) -> bool:
    """Whether a map of one place is the mean of a larger one."""
    return tuple(shape[1:]) == (1, 1) and any(size != (1, 1) for size in grids)


def _index(output: Any, training_output: Any, own: Optional[int]) -> Optional[int]:
    """Return where an output of eval mode is among those of training."""
    value = first_output(as_levels(output)[own or 0])
    found = [first_output(other) for other in as_levels(training_output)]
    if own is not None and own < len(found) and _equal(found[own], value):
        return own
    return next((i for i, other in enumerate(found) if _equal(other, value)), own)


def _training_only(
    output: Any, training_output: Any, record: CallRecorder, chosen: Sequence[Stage]
) -> List[Stage]:
    """Return stages for the maps that a source returns in training alone.

    They are the outputs of inner modules, which run in eval mode as well.
    """
    if training_output is output:
        return []
    known = [first_output(value) for value in as_levels(output)]
    stages = []
    for value in map(first_output, as_levels(training_output)):
        if not isinstance(value, Tensor) or any(_equal(value, own) for own in known):
            continue
        stage = _stage_of(value, record)
        if stage is not None and stage not in chosen:
            stages.append(stage)
    return stages


def _stage_of(value: Tensor, record: CallRecorder) -> Optional[Stage]:
    """Return the inner module whose output a tensor is."""
    calls = [inner for call in record.calls for inner in call.walk()]
    for call in reversed(calls):
        if call.stage is not None and _equal(first_output(call.output), value):
            return call.stage
    return None


def _equal(one: Any, two: Any) -> bool:
    return (
        isinstance(one, Tensor)
        and isinstance(two, Tensor)
        and one.shape == two.shape
        and torch.equal(one, two)
    )


class _TemplateMaker:
    """Say of which level each part of a source's own output is."""

    def __init__(
        self, stages: Sequence[Stage], record: CallRecorder, image_size: Size
    ) -> None:
        self.stages = stages
        self.record = record
        self.image_size = image_size

    def make(self, output: Any, training: bool) -> Any:
        """Return a template of an output, see :class:`Levels`."""
        self.owners = {
            stage.own_in_training if training else stage.own: level
            for level, stage in enumerate(self.stages)
            if stage.own is not None
        }
        return [
            self._part(value, index) for index, value in enumerate(as_levels(output))
        ]

    def _part(self, value: Any, index: int) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._part(inner, index) for inner in value]
        if not isinstance(value, Tensor):
            return None
        level, form = self._level(value, index)
        return _leaf(level, form, self._channels(value, form))

    def _level(self, value: Tensor, index: int) -> Tuple[int, Form]:
        """Return the level that is nearest to an output, and the output's form."""
        inner = _stage_of(value, self.record)
        for level, stage in enumerate(self.stages):
            if stage == inner and value.dim() > 2:
                return level, stage.form
        owner = self.owners.get(index)
        if value.dim() < 3:  # LeNet squeezes a batch of one
            return len(self.stages) - 1 if owner is None else owner, Form('pooled')
        if owner is not None and self._fits(value, self.stages[owner]):
            return owner, self.stages[owner].form
        layout = 'pooled_map' if value.dim() == 4 else 'pooled'
        return len(self.stages) - 1, Form(layout)

    def _fits(self, value: Tensor, stage: Stage) -> bool:
        if value.dim() != (4 if stage.form.layout == 'map' else 3):
            return False
        return tuple(stage.form.to_map(value, self.image_size).shape[1:]) == stage.shape

    @staticmethod
    def _channels(value: Tensor, form: Form) -> int:
        last = value.dim() < 3 or form.layout in ('tokens', 'map_last')
        return value.shape[-1 if last else 1]


def _leaf(level: int, form: Form, channels: int = 0) -> Dict[str, Any]:
    return dict(level=level, layout=form.layout, extra=form.extra, channels=channels)


def _first_leaf(part: Any) -> Optional[Dict[str, Any]]:
    while isinstance(part, list):
        part = next((inner for inner in part if inner is not None), None)
    return part


def _named(
    names: StageNames, stages: Sequence[Stage], record: CallRecorder, source: str
) -> List[Stage]:
    """Return the stages that a user has named.

    Raises:
        ValueError: If there is one that gives no map.
    """
    names = [names] if isinstance(names, SINGLE) else list(names)
    calls = [inner for call in record.calls for inner in call.walk()]
    known = {call.path: call.stage for call in calls if call.stage is not None}
    found = []
    for name in names:
        try:
            stage = stages[name] if isinstance(name, int) else known[name]
        except (IndexError, KeyError):
            raise ValueError(
                f'stages={tuple(names)} of the distiller: {name!r} is no stage of the '
                f'{source}. Choose by index among '
                f'{", ".join(s.path for s in stages) or "none"}, or name other '
                'modules whose outputs are maps or tokens.'
            ) from None
        found.append(stage)
    return found


def check_gradients(levels: Levels, record: CallRecorder, output: Any) -> None:
    """Require that the levels can be trained.

    Args:
        levels: Of a source.
        record: The runs of its parts in training mode, with gradients.
        output: What it returned.

    Raises:
        ValueError: If a level's weights are trained, but its map has no gradient.
    """
    outputs = {call.path: call.output for one in record.calls for call in one.walk()}
    for stage in levels.stages:
        if stage.own is None:
            value, part = first_output(outputs[stage.path]), record.parts[stage.path]
            if _lacks_gradient(value, part, as_levels(output)):
                raise ValueError(_no_gradient(stage))


def _lacks_gradient(value: Tensor, module: nn.Module, own: Sequence[Any]) -> bool:
    """Whether a stage has trained weights, but its map no gradient.

    Args:
        value: The map.
        module: The stage's.
        own: The outputs of its source. Where these have no gradient, none is asked for.
    """
    outputs = [first_output(output) for output in own]
    trained = any(isinstance(o, Tensor) and o.requires_grad for o in outputs)
    has_weights = any(p.requires_grad for p in module.parameters())
    return trained and has_weights and not value.requires_grad


def _no_gradient(stage: Stage) -> str:
    return (
        f'The output of {stage.path} has no gradient, since reentrant checkpointing '
        '(or reversible layers) computes it apart. Remove activation_checkpointing of '
        'what it is in (RevViT: set no_custom_backward=True of the backbone), or '
        "choose other stages in the distiller: stages=('NAME', ...)."
    )
