"""What a distiller has to know about the models of a host library."""

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import ConfigDict
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.utils.model import dry_run
from frskd_mm.utils.preactivation import PreactRecorder
from frskd_mm.utils.recorder import Recorder, Target

SOURCES = ('backbone', 'neck')


class DryForwardError(ValueError):
    """A student cannot take the image of the dry forward."""


class Task(ABC):
    """Reads the models of one host library; holds no parameters.

    A student's feature source is its backbone or its neck. Everything after
    it is built a second time, as the twin that scores refined features.
    """

    #: Input height and width of the dry forward.
    input_size: Tuple[int, int]

    def check_student(self, student: BaseModel) -> None:
        """Raise ``TypeError`` for a student whose outputs cannot be compared."""
        return None

    def default_source(self, student: BaseModel) -> str:
        """Name of the part whose output is refined unless the user says."""
        return 'backbone'

    def source_module(self, student: BaseModel, source: str) -> nn.Module:
        """Return the module whose output is refined.

        Raises:
            ValueError: If the student has no such part.
        """
        if source not in SOURCES:
            raise ValueError(f'source must be one of {SOURCES}, got {source!r}.')
        module = getattr(student, source, None)
        if module is None:
            raise ValueError(
                f"{type(student).__name__} has no {source}; set the distiller's "
                "source='backbone'."
            )
        return module

    def feature_shapes(
        self,
        student: BaseModel,
        source: str,
        input_size: Optional[Tuple[int, int]] = None,
    ) -> List[Tuple[int, ...]]:
        """Run the feature source once on zeros and return its maps' shapes.

        Args:
            student: Built student; left as it was.
            source: 'backbone' or 'neck'.
            input_size: Height and width of the image, if the task's default
                does not suit the backbone.

        Returns:
            list[tuple[int, ...]]: (C, H, W) a level, fine to coarse.

        Raises:
            DryForwardError: If the student cannot run an image of this size.
            ValueError: If the source does not give (N, C, H, W) maps.
        """
        height, width = input_size or self.input_size
        targets = {'feats': (self.source_module(student, source), 'forward')}
        image = next(student.parameters()).new_zeros(1, 3, height, width)
        record = Recorder(targets)
        try:
            with dry_run(student), record:
                student.extract_feat(image)
        except Exception as error:
            if not record.outputs['feats']:  # what comes after does not matter here
                raise DryForwardError(
                    f'{type(student).__name__} does not run on an image of '
                    f'{height}x{width}: {type(error).__name__}: {error} Set '
                    'input_size=(height, width) in the distiller to the training '
                    "images'."
                ) from error
        feats = as_levels(record.last('feats'))
        module = targets['feats'][0]
        for level, feat in enumerate(feats):
            if not isinstance(feat, Tensor) or feat.dim() != 4:
                given = (
                    f'has shape {tuple(feat.shape)}'
                    if isinstance(feat, Tensor)
                    else f'is a {type(feat).__name__}'
                )
                raise ValueError(
                    f'Level {level} of the {source} ({type(module).__name__}) {given}, '
                    'but only (N, C, H, W) maps can be refined. '
                    f'{_maps_advice(module)}'
                )
        return [tuple(feat.shape[1:]) for feat in feats]

    @abstractmethod
    def twin_cfg(
        self,
        student_cfg: ConfigDict,
        source: str,
        in_channels: Sequence[int],
        out_channels: Sequence[int],
    ) -> ConfigDict:
        """Return the config of the twin, which runs on refined features.

        Args:
            student_cfg: The student's own config.
            source: 'backbone' or 'neck'.
            in_channels: The source's channels c_i.
            out_channels: The refined maps' channels d_i.
        """

    def coarsest_read(
        self, student_cfg: ConfigDict, source: str, num_levels: int
    ) -> int:
        """Return the coarsest level of the source that the twin reads.

        Refined levels beyond it never get a gradient from the twin's loss.

        Args:
            student_cfg: The student's own config.
            source: 'backbone' or 'neck'.
            num_levels: How many maps the source gives.
        """
        return num_levels - 1

    @abstractmethod
    def output_targets(self, model: BaseModel) -> Dict[str, Target]:
        """Return the methods whose outputs soft labels compare, by name."""

    def record(self, student: BaseModel, source: str, preact: bool = False) -> Recorder:
        """Return a recorder of the student's features ('feats') and outputs.

        Args:
            student: The model.
            source: 'backbone' or 'neck'.
            preact: Record also the features before their ReLU ('preacts').
        """
        feats = (self.source_module(student, source), 'forward')
        recorder = PreactRecorder if preact else Recorder
        return recorder({'feats': feats, **self.output_targets(student)})

    def record_twin(self, twin: BaseModel, student_outputs: Recorder) -> Recorder:
        """Return a recorder of the twin's outputs.

        Args:
            twin: The self-teacher's twin.
            student_outputs: What the student's pass left, for twins that have
                to follow the student's random choices.
        """
        return Recorder(self.output_targets(twin))

    @abstractmethod
    def soft_label_loss(
        self,
        loss: nn.Module,
        student: BaseModel,
        student_outputs: Recorder,
        teacher_outputs: Recorder,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Apply ``loss`` to the recorded outputs of student and twin."""

    def predict(
        self,
        student: BaseModel,
        source: str,
        self_teacher: BaseModule,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Any:
        """Predict with the self-teacher, in the host library's form."""
        with self.record(student, source) as student_outputs:
            student.extract_feat(inputs)
        return self_teacher.predict(
            as_levels(student_outputs.last('feats')), data_samples
        )

    def apply_feature_loss(
        self,
        loss: nn.Module,
        student_feats: Sequence[Tensor],
        teacher_feats: Sequence[Tensor],
        teacher_outputs: Recorder,
        data_samples: Sequence[Any],
    ) -> Tensor:
        """Apply ``loss`` to the student's and the refined maps."""
        return loss(student_feats, teacher_feats)

    def copies(self, data_samples: Sequence[Any]) -> Sequence[Any]:
        """Return annotations that a model's loss may write into."""
        return data_samples

    def metrics(
        self,
        student_outputs: Recorder,
        teacher_outputs: Recorder,
        data_samples: Sequence[Any],
    ) -> Dict[str, Tensor]:
        """Return values to log; their names must not contain 'loss'."""
        return {}

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Raise ``ValueError`` for labels that the head cannot have."""
        return None


def _maps_advice(module: nn.Module) -> str:
    """Say how a backbone that gives vectors or tokens is made to give maps."""
    pool = (
        " and pool them afterwards: neck=dict(type='GlobalAveragePooling') and a "
        'LinearClsHead.'
    )
    if hasattr(module, 'out_type'):
        return f"Set out_type='featmap' of the backbone{pool}"
    if hasattr(module, 'gap_before_final_norm'):
        return f'Set gap_before_final_norm=False of the backbone{pool}'
    if getattr(module, 'num_classes', 0) > 0:
        return (
            'It contains the classifier: set num_classes=-1 of the backbone to get '
            f'its maps{pool}'
        )
    return 'Distil with a method that reads logits alone, or use another backbone.'


def sample_name(data_sample: Any) -> str:
    """Name a sample for an error: its image file or else its index."""
    keys = ('img_path', 'img_id', 'sample_idx')
    metainfo = data_sample.metainfo
    return str(next((metainfo[key] for key in keys if key in metainfo), 'no name'))


def as_levels(feats: Any) -> Tuple[Tensor, ...]:
    """Return a source's output as a tuple of maps."""
    return (feats,) if isinstance(feats, Tensor) else tuple(feats)


def rewire(
    cfg: ConfigDict, in_channels: Sequence[int], out_channels: Sequence[int]
) -> None:
    """Let a neck or head config read the refined maps, in place.

    ``in_channels`` becomes the refined channels of the levels that it reads:
    those named by ``in_index``, all of them for a list, else the last level
    with that many channels.

    Args:
        cfg: Config with ``in_channels``.
        in_channels: The source's channels c_i.
        out_channels: The refined maps' channels d_i.

    Raises:
        ValueError: If the config reads something else than the source.
    """
    reads, index = cfg['in_channels'], cfg.get('in_index')
    if isinstance(reads, int):
        if index is None:
            levels = [i for i, c in enumerate(in_channels) if c == reads]
            if not levels:
                raise ValueError(
                    f'{cfg.get("type")} reads {reads} channels but the feature '
                    f'source gives {list(in_channels)}. Let its in_channels be one '
                    'of them, or let out_indices of the backbone have the level that '
                    'it reads. If the plain student trains as it is, set the twin by '
                    "hand: the distiller's twin=dict(...)."
                )
            index = levels[-1]
        cfg['in_channels'] = out_channels[index]
    else:
        indices = index if index is not None else range(len(reads))
        cfg['in_channels'] = [out_channels[i] for i in indices]
