"""The self-teacher: a refining neck and a twin of the student's rest."""

from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.registry import MODELS
from frskd_mm.utils.model import class_of, count_parameters
from frskd_mm.utils.preactivation import PreactRecorder

from .necks.refining import RefiningNeck, learn_neck
from .switches import Switches
from .tasks import Task
from .tasks.base import RewiringError, as_levels
from .tasks.levels import Levels, StageNames

#: Parts of a twin that are never the student's.
OWN_PARTS = ('backbone', 'data_preprocessor')
#: How many times as large as its student a self-teacher is for a remark.
LARGE = 2
#: What is said of a part that the twin does not have.
LEFT_OUT = 'left out'


class SelfTeacher(BaseModule):
    """Refines the student's feature maps and scores what comes out.

    The twin is everything after the student's feature source, built a second
    time from the student's own config with its input channels rewired to the
    neck's. It is a model of the host library whose "images" are refined
    feature maps, so its loss and predictions are the library's own code.

    Args:
        task (Task): How to read the student.
        student (BaseModel): The built student; not kept.
        student_cfg (ConfigDict): Its config.
        neck (dict): Neck config; ``in_channels`` is inferred unless given.
        source (str | Levels, optional): What is refined: levels, the 'backbone' or
            the 'neck'. The default depends on the task.
        twin (dict, optional): Settings merged into the inferred twin config.
        input_size (tuple[int, int], optional): Image height and width of the
            dry forward that infers the channels.
        stages (Sequence[str | int], optional): See ``Task.find_levels``.
        shared (bool): Whether the twin has no parts of its own, but borrows the
            student's while it runs, see :meth:`borrowing`. Defaults to False.

    Attributes:
        levels (Levels): What of the student is refined.

    Raises:
        ValueError: If the neck's ``in_channels`` are not the student's, or if the
            student's own parts cannot score the refined maps.
    """

    def __init__(
        self,
        task: Task,
        student: BaseModel,
        student_cfg: ConfigDict,
        neck: dict,
        source: Union[str, Levels, None] = None,
        twin: Optional[dict] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(source, Levels):
            levels = source
        else:
            levels = task.find_levels(student, source, input_size, stages)
        self.levels, source = levels, levels.source
        shapes = levels.shapes
        if len(shapes) < 2:
            raise ValueError(
                f'The {source} ({type(getattr(student, source)).__name__}) gives one '
                'map, and no parts that give others, but the self-teacher refines at '
                'least two. Use another backbone, or a method that reads logits alone.'
            )
        in_channels = [channels for channels, *_ in shapes]
        neck = {**neck, 'in_channels': self._check_channels(neck, in_channels, source)}
        # UNet and YOLOv3 return the coarsest map first; a neck takes it last.
        self._order = sorted(
            range(len(shapes)), key=lambda level: -shapes[level][1] * shapes[level][2]
        )
        neck['in_channels'] = self._sorted(neck['in_channels'])
        outputs = task.outputs_read(levels, student_cfg)
        read = sorted({self._order.index(levels.outputs[output]) for output in outputs})
        neck_class = class_of(neck)
        if issubclass(neck_class, RefiningNeck):
            neck = {**neck_class.settings_for(read), **neck}
        self.neck = MODELS.build(neck)
        self.in_channels = in_channels
        self.out_channels = self._unsorted(
            learn_neck(self.neck, self._sorted(shapes), read)
        )
        self.twin, changes = self._build_twin(task, student_cfg, twin or {})
        _check_classes(student, self.twin)
        self._switches = Switches(student, self.twin)
        self._borrowed: List[str] = []
        if shared:
            self._share(changes)
            changes = ["all parts are the student's own"]
        print_log(
            self._summary(
                type(getattr(student, source)).__name__,
                source,
                shapes,
                input_size or task.input_size,
                changes,
                self._size(student, neck.get('width')),
            ),
            logger='current',
        )

    def _build_twin(
        self, task: Task, student_cfg: ConfigDict, given: dict
    ) -> Tuple[BaseModel, List[str]]:
        """Build the rest of the student on the refined maps.

        Its readers take the refined channels. Where they cannot, convolutions bring
        the maps to the student's channels first.

        Args:
            task: How to read the student.
            student_cfg: Its config.
            given: The user's settings of the twin.

        Returns:
            tuple: The twin, and what is set otherwise than in the student.

        Raises:
            ValueError: If it cannot be built either way.
        """
        first: Optional[Exception] = None
        changes: List[str] = []
        for rewire in (True, False):
            try:
                inferred = task.twin_cfg_on(
                    self.levels, student_cfg, self.out_channels, rewire
                )
            except RewiringError:
                continue
            cfg = Config(dict(twin=inferred))
            cfg.merge_from_dict(dict(twin=given))
            if rewire:
                changes = _changes(student_cfg, cfg.twin)
            try:
                twin = MODELS.build(cfg.twin)
            except Exception as error:
                first = first or error
                continue
            if not rewire:
                changes = _changes(student_cfg, cfg.twin)
            for level, (before, after) in (
                cfg.twin.backbone.get('widths') or {}
            ).items():
                changes.append(f'level {level}: {before} -> {after} channels, 1x1')
            return twin, changes
        raise ValueError(
            'The rest of the student cannot be built on the refined maps: '
            f'{type(first).__name__}: {first} Changed were '
            f'{"; ".join(changes) or "no settings"}. Change what hangs together '
            "with them, too: twin=dict(...) in the distiller. Or keep the maps' "
            'channels: neck=dict(width=1) with BiFPNc.'
        ) from first

    def _summary(
        self,
        module: str,
        source: str,
        shapes: Sequence[Tuple[int, ...]],
        image_size: Tuple[int, int],
        changes: Sequence[str],
        size: str,
    ) -> str:
        """Say what was inferred."""
        height, width = image_size
        lines = [
            f'Self-teacher, inferred with an image of {height}x{width}:',
            f'  {source} ({module}) -> {type(self.neck).__name__} -> twin',
            '  level  stride  map (C, H, W)   refined to C',
        ]
        for level, (shape, refined) in enumerate(zip(shapes, self.out_channels)):
            stride = f'{height / shape[1]:g}'
            lines.append(f'  {level:<5}  {stride:<6}  {shape!s:<15} {refined}')
        lines += [f'  {line}' for line in self.levels.describe()]
        lines += ['  of the twin otherwise than of the student:']
        lines += [f'    {change}' for change in changes or ['nothing']]
        lines += [f'  {size}']
        return '\n'.join(lines)

    def _size(self, student: BaseModel, width: Optional[float]) -> str:
        """Say how large it is, and what makes it smaller if that is much."""
        own, of_student = count_parameters(self), count_parameters(student)
        size = (
            f'parameters: {own / 1e6:.2f} M; of the student: {of_student / 1e6:.2f} M'
        )
        if width is not None and own > LARGE * of_student:
            size += f'; a smaller neck.width of the distiller than {width:g} saves most'
        return size

    @staticmethod
    def _check_channels(neck: dict, inferred: List[int], source: str) -> List[int]:
        given = list(neck.get('in_channels', inferred))
        if given != inferred:
            raise ValueError(
                f'The neck of the self-teacher has in_channels={given}, but the '
                f"student's {source} gives {len(inferred)} maps with {inferred} "
                "channels. Remove in_channels from the distiller's neck to have "
                f'them inferred, or set student.{source}.out_indices so that they '
                'agree.'
            )
        return given

    def _share(self, changes: Sequence[str]) -> None:
        """Take the twin's parts away, in whose place the student's will be.

        Raises:
            ValueError: If they are not built as the student's are.
        """
        others = [change for change in changes if not change.endswith(LEFT_OUT)]
        if others:
            raise ValueError(
                "shared_head lets the student's own parts score the refined maps, but "
                f'the twin needs others: {"; ".join(others)}. Keep the channels of '
                'the maps, neck=dict(width=1) of BiFPNc in the distiller, and remove '
                'twin; or remove shared_head.'
            )
        self._borrowed = [
            *(name for name, _ in self.twin.named_children() if name not in OWN_PARTS),
            *(name for name, _ in self.twin.named_parameters(recurse=False)),
        ]
        for name in self._borrowed:
            setattr(self.twin, name, None)
        self._switches.clear()

    @property
    def is_shared(self) -> bool:
        """Whether the twin borrows the student's parts."""
        return bool(self._borrowed)

    def init_weights(self) -> None:
        """Initialise the neck, and the twin if it has parts of its own."""
        if not self.is_shared:
            super().init_weights()
        elif isinstance(self.neck, BaseModule):
            self.neck.init_weights()

    @contextmanager
    def borrowing(self, student: BaseModel) -> Iterator[None]:
        """Let the twin have the student's parts, if they share them.

        They are no parameters of the self-teacher, and not in its state dict.
        """
        for name in self._borrowed:
            setattr(self.twin, name, getattr(student, name))
        try:
            yield
        finally:
            for name in self._borrowed:
                setattr(self.twin, name, None)

    def follow_switches(self, student: BaseModel) -> None:
        """Copy what was switched on the student's heads since they were built.

        Hooks such as YOLOX's mode switch set attributes of a head. The twin's
        head gets those plain values that were equal in both at first; rewired
        channels and what the user set for the twin stay.
        """
        self._switches.follow(student, self.twin)

    def follow_part_switches(self, student: BaseModel) -> None:
        """Copy the losses and margins that hooks exchanged, see ``SWITCHES``."""
        self._switches.follow_parts(student, self.twin)

    @property
    def output_norms(self) -> Optional[List[nn.Module]]:
        """The norm that ends each refined map before its activation, if known."""
        norms = self.neck.output_norms if isinstance(self.neck, RefiningNeck) else None
        return None if norms is None else self._unsorted(norms)

    def refine(self, feats: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Refine the student's maps.

        Args:
            feats: Per level (N, c_i, H_i, W_i), in the order of the source.

        Returns:
            tuple[Tensor]: Per level (N, d_i, H_i, W_i), in the same order.
        """
        return tuple(self._unsorted(self.neck(self._sorted(feats))))

    def refine_with_preacts(
        self, feats: Sequence[Tensor]
    ) -> Tuple[Tuple[Tensor, ...], Tuple[Tensor, ...]]:
        """Refine the student's maps, as :meth:`refine` does.

        Returns:
            tuple: The refined maps, and the same before their last ReLU.
        """
        with PreactRecorder({'feats': (self.neck, 'forward')}) as record:
            refined = self.refine(feats)
        return refined, tuple(self._unsorted(as_levels(record.last('preacts'))))

    def _sorted(self, values: Sequence[Any]) -> List[Any]:
        """Return the values of the source's levels, fine to coarse."""
        return [values[level] for level in self._order]

    def _unsorted(self, values: Sequence[Any]) -> List[Any]:
        """Return values of levels from fine to coarse in the order of the source."""
        places = sorted(range(len(self._order)), key=self._order.__getitem__)
        return [values[place] for place in places]

    def predict(self, feats: Sequence[Tensor], data_samples: Sequence[Any]) -> Any:
        """Predict from the student's maps, in the host library's form."""
        return self.twin.predict(self.refine(feats), data_samples)


def _check_classes(student: BaseModel, twin: BaseModel) -> None:
    """Require that the heads of student and twin have the same classes.

    Raises:
        ValueError: If they differ in number.
    """
    own = dict(student.named_modules())
    for name, head in twin.named_modules():
        theirs = getattr(head, 'num_classes', None)
        ours = getattr(own.get(name), 'num_classes', None)
        # A segmentor hands on its head's number under an empty name.
        both = name and isinstance(ours, int) and isinstance(theirs, int)
        if both and ours != theirs:
            raise ValueError(
                f'The twin has {name}.num_classes={theirs}, but the student has '
                f'{ours}. Both learn from the same labels: remove num_classes from '
                "the distiller's twin=dict(...)."
            )


def _changes(student: Any, twin: Any, path: str = '') -> List[str]:
    """List settings of the twin that differ from the student's."""
    if isinstance(student, dict) and isinstance(twin, dict):
        keys = [key for key in student if key in twin and key != 'backbone']
        pairs = [(student[key], twin[key], f'{path}.{key}') for key in keys]
    elif isinstance(student, list) and isinstance(twin, list):
        both = enumerate(zip(student, twin))
        pairs = [(before, after, f'{path}[{i}]') for i, (before, after) in both]
    else:
        if student == twin:
            return []
        change = LEFT_OUT if twin is None else f'{student} -> {twin}'
        return [f'{path.lstrip(".")}: {change}']
    return [change for pair in pairs for change in _changes(*pair)]
