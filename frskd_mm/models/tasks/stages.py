"""Find the stages of any model by watching it run."""

from dataclasses import dataclass
from functools import wraps
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from torch import nn

from frskd_mm.utils.forms import Form, Size, find_grids, read_form
from frskd_mm.utils.model import count_parameters
from frskd_mm.utils.recorder import Recorder

MAX_LEVELS = 4
#: Of the weights, what makes a part of a part, or of a map size, count.
LARGE_SHARE = 0.2


@dataclass(frozen=True)
class Stage:
    """A module whose output is a feature map.

    Args:
        path: Its name within the feature source.
        form: How its output, or the first of several, holds the map.
        shape: (C, H, W) of the map in the dry forward.
        own: Which of the source's own outputs it is, for no inner module.
        own_in_training: The same where there are others in training.
    """

    path: str
    form: Form
    shape: Tuple[int, int, int]
    own: Optional[int] = None
    own_in_training: Optional[int] = None

    @property
    def size(self) -> Size:
        """Height and width of the map in the dry forward."""
        return self.shape[1:]

    @property
    def name(self) -> str:
        """What to call it."""
        return 'its output' if self.own is not None else self.path


class Call:
    """One run of a module within its source's.

    Attributes:
        path: The module's name within the source.
        output: What it returned.
        calls: The runs of its parts.
    """

    def __init__(self, path: str, module: nn.Module) -> None:
        self.path = path
        self.kind = type(module)
        self.size = count_parameters(module)
        self.filters = any(weight.dim() > 1 for weight in module.parameters())
        self.output: Any = None
        self.calls: List[Call] = []
        self.stage: Optional[Stage] = None

    def walk(self) -> List['Call']:
        """Return this run and all within it, in the order of their ends."""
        return [inner for call in self.calls for inner in call.walk()] + [self]


class CallRecorder(Recorder):
    """Record the runs of a module's parts, and which ran within which.

    Args:
        module: The feature source.
    """

    def __init__(self, module: nn.Module) -> None:
        self.parts = {name: part for name, part in module.named_modules() if name}
        super().__init__({name: (part, 'forward') for name, part in self.parts.items()})
        self.calls: List[Call] = []
        self._open: List[Call] = []

    def _recording(self, name: str, method: Callable) -> Callable:
        @wraps(method)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            call = Call(name, self.parts[name])
            siblings = self._open[-1].calls if self._open else self.calls
            self._open.append(call)
            try:
                call.output = method(*args, **kwargs)
            finally:
                self._open.pop()
            siblings.append(call)
            return call.output

        return recorded

    def read(self, image_size: Size, extra: Optional[int]) -> List[Size]:
        """Note the map of every run, and return the sizes of all maps.

        Args:
            image_size: Height and width of the image.
            extra: Number of tokens beside a map's, if it is known.
        """
        calls = [inner for call in self.calls for inner in call.walk()]
        grids = find_grids((call.output for call in calls), image_size)
        last = {call.path: call for call in calls}
        for call in last.values():  # a part that runs twice is known by its last run
            value = first_output(call.output)
            found = read_form(value, image_size, grids, extra)
            if found is not None:
                call.stage = Stage(call.path, *found)
        return grids


def first_output(output: Any) -> Any:
    """Return a module's output, or the first of several."""
    while isinstance(output, (list, tuple)) and output:
        output = output[0]
    return output


def find_stages(
    calls: Sequence[Call], image_size: Size, own: Optional[Stage] = None
) -> Tuple[List[Stage], bool]:
    """Return the stages among the runs of a source's parts.

    Of each map size the deepest run before the size changes is a stage: that of
    the outermost parts, or of those within a part that changes the size more than
    once. Where all maps have one size, as in plain transformers, the parts that
    repeat are stages.

    Args:
        calls: Of the outermost parts, in the order of their ends.
        image_size: Height and width of the image.
        own: The source's own map, if it returns one.

    Returns:
        tuple: The stages, fine to coarse, and whether all maps have one size.
    """
    calls = list(calls)
    while True:
        part = _part_without_map(calls)
        if part is None:
            repeated = _repeated(calls)
            sizes = {call.stage.size for call in calls if call.stage is not None}
            if len(sizes) == 1 and len(repeated) > 1:
                return [call.stage for call in repeated if call.stage], True
            part = _part_to_open(calls, image_size)
        if part is None:
            break
        index = calls.index(part)
        calls[index : index + 1] = part.calls
    deepest = _deepest(calls)
    if own is not None:
        deepest.pop(own.size, None)
    ordered = sorted(deepest.values(), key=lambda stage: -stage.size[0] * stage.size[1])
    return ordered, False


def choose_levels(
    stages: Sequence[Stage], plain: bool, own: Optional[Stage] = None
) -> List[Stage]:
    """Return which stages to refine, and the source's own map among them.

    Args:
        stages: As :func:`find_stages` returns them.
        plain: Whether all maps have one size.
        own: The source's own map, if it returns one.
    """
    if plain:
        number = min(MAX_LEVELS, len(stages))
        chosen = [stages[(i + 1) * len(stages) // number - 1] for i in range(number)]
        return [*chosen[:-1], own] if own is not None else chosen
    if own is None:
        return list(stages[-MAX_LEVELS:])
    return in_order([*stages[1 - MAX_LEVELS :], own])


def in_order(stages: Sequence[Stage]) -> List[Stage]:
    """Sort fine to coarse; of one size the source's own outputs come last."""
    return sorted(
        stages,
        key=lambda stage: (-stage.size[0] * stage.size[1], stage.own is not None),
    )


def _repeated(calls: Sequence[Call]) -> List[Call]:
    """Return the runs of the one kind of part that holds most weights."""
    groups: Dict[type, List[Call]] = {}
    for call in calls:
        if call.stage is not None and call.size:
            groups.setdefault(call.kind, []).append(call)
    several = [group for group in groups.values() if len(group) > 1]
    return max(several, key=lambda group: sum(c.size for c in group), default=[])


def _part_without_map(calls: Sequence[Call]) -> Optional[Call]:
    """Return a part that gives no map, but whose parts do.

    Its kind has to hold much of the weights.
    """
    sizes: Dict[type, int] = {}
    for call in calls:
        sizes[call.kind] = sizes.get(call.kind, 0) + call.size
    for call in calls:
        if call.stage is None and sizes[call.kind] > LARGE_SHARE * sum(sizes.values()):
            if any(part.stage is not None for part in call.walk()):
                return call
    return None


def _part_to_open(calls: Sequence[Call], image_size: Size) -> Optional[Call]:
    """Return a part in which there are stages that the others do not show."""
    before: Tuple[int, int, int] = (0, *image_size)
    for call in calls:
        if call.stage is None:
            continue
        inner = [part for part in call.calls if part.stage is not None]
        if inner and _shrinks_late(call, inner, before):
            return call
        before = call.stage.shape
    sizes = {call.stage.size for call in calls if call.stage is not None}
    largest = max(calls, key=lambda call: call.size, default=None)
    if len(sizes) < 2 and largest is not None and largest.calls:
        return largest
    return None


def _deepest(calls: Sequence[Call]) -> Dict[Size, Stage]:
    """Return the deepest run of each size, side branches of few weights left out.

    Norms and activations that follow belong to it.
    """
    heaviest: Dict[Size, int] = {}
    for call in calls:
        if call.stage is not None:
            size = call.stage.size
            heaviest[size] = max(heaviest.get(size, 0), call.size)
    found: Dict[Size, Stage] = {}
    pooled, last = False, None
    for call in calls:
        stage = call.stage
        if stage is None:
            continue
        pooled = pooled or _is_pooled(call)
        if pooled and stage.size == (1, 1):
            continue
        follows = not call.filters and last is not None and stage.shape == last.shape
        if call.size >= LARGE_SHARE * heaviest[stage.size] or follows:
            found[stage.size] = last = stage
        else:
            last = None
    return found


def _shrinks_late(
    call: Call, inner: Sequence[Call], before: Tuple[int, int, int]
) -> bool:
    """Whether much of a part works on maps that are larger than what it returns.

    These are as wide as what it is given, or of sizes in between.
    """
    if call.stage is None or call.stage.size == before[1:]:
        return False
    size = call.stage.size
    large = 0
    for part in inner:
        if part.stage is None:
            continue
        same = part.stage.shape == before
        between = size[0] < part.stage.size[0] < before[1]
        large += part.size if same or between else 0
    return large > LARGE_SHARE * call.size


def _is_pooled(call: Call) -> bool:
    """Whether a run gives the mean of a map: one place, and no filter made it."""
    return call.stage is not None and call.stage.size == (1, 1) and not call.filters
