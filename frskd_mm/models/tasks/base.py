"""What a distiller has to know about the models of a host library."""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.model import BaseModel, BaseModule
from torch import Tensor, nn

from frskd_mm.models.label_guidance import LabelGuidance
from frskd_mm.models.losses.soft_labels import SoftLabels
from frskd_mm.models.passes import Pass
from frskd_mm.utils.model import dry_run, input_channels
from frskd_mm.utils.preactivation import PreactRecorder
from frskd_mm.utils.recorder import Recorder, Replayer, Target

from .levels import (
    Levels,
    StageNames,
    as_levels,
    check_gradients,
    find_levels,
    levels_of_outputs,
    reads_training_mode,
)
from .stages import CallRecorder

SOURCES = ('backbone', 'neck')

#: A host library's ``loss``, of inputs and annotations.
LossFunction = Callable[[Any, Sequence[Any]], Dict[str, Any]]


#: Where maps are recorded: the outputs of a part, or levels found in it.
Source = Union[str, Levels]


#: Errors that no other image would mend, and words that speak of its size.
NOT_OF_SIZE = (AttributeError, ImportError, KeyError, NameError, TypeError)
SIZE_WORDS = ('size', 'shape', 'height', 'width', 'resolution', 'divisible')
#: What PyTorch and mmcv say of operators that they have for accelerators alone.
NOT_ON_CPU = ('not implemented for', 'implementation for device cpu not found')


class DryForwardError(ValueError):
    """A student cannot take the image of the dry forward.

    Args:
        message (str): What to tell the user.
        of_size (bool): Whether the size of the image may be why.
    """

    def __init__(self, message: str, of_size: bool) -> None:
        super().__init__(message)
        self.of_size = of_size


class RewiringError(ValueError):
    """A reader of maps has no channels that could be set to the refined maps'."""


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

    def check_outputs(self, student: BaseModel) -> None:
        """Raise ``TypeError`` for a student whose soft labels cannot be compared.

        It is called when the model is built, if soft labels are to be compared.
        """
        return None

    def check_teacher(self, teacher: BaseModel) -> None:
        """Raise ``TypeError`` for a trained model that cannot teach in eval mode."""
        return None

    def cut_heads(self, student: BaseModel, index: int) -> None:
        """Let soft labels compare the teacher's head on the student's maps within it.

        Args:
            student: The student; its teacher has to be cut, too.
            index: How many convolutions of a head's branches lie before the cut.

        Raises:
            TypeError: If the student's heads cannot be cut.
            ValueError: If they have too few convolutions.
        """
        raise TypeError(
            f'cross_head is for detectors, but the student is a '
            f'{type(student).__name__}. Remove it from the distiller.'
        )

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
        """Run the feature source once and return its maps' shapes.

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
        module = self.source_module(student, source)
        record = self._dry_forward(student, {source: module}, None, input_size)
        feats = as_levels(record.last(source))
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

    def find_levels(
        self,
        student: BaseModel,
        source: Optional[str] = None,
        input_size: Optional[Tuple[int, int]] = None,
        stages: Optional[StageNames] = None,
    ) -> Levels:
        """Run the student once and choose the maps that are read.

        These are the several maps that the source returns, or else stages of it
        that are recorded as they run, so that nothing of the student is changed.

        Args:
            student: Built student; left as it was.
            source: 'backbone' or 'neck'. By default what the task reads, but for a
                neck that returns one map the backbone.
            input_size: Height and width of the image, if the task's default
                does not suit the backbone.
            stages: Names of the source's modules whose outputs are read, or
                indices of the stages that are found.

        Raises:
            DryForwardError: If the student cannot run an image of this size.
            ValueError: If the stages are not there.
        """
        wanted = source or self.default_source(student)
        parts = {wanted: self.source_module(student, wanted)}
        if source is None:
            parts.setdefault('backbone', student.backbone)
        # A given neck has no stages: its inner maps are of one size.
        inner = CallRecorder(student.backbone) if source != 'neck' else None
        record = self._dry_forward(student, parts, inner, input_size)
        output = record.last(wanted)
        feats = as_levels(output)
        several = len(feats) > 1 and all(
            isinstance(feat, Tensor) and feat.dim() == 4 for feat in feats
        )
        if wanted == 'neck' and source is None and not several:
            wanted, output = 'backbone', record.last('backbone')
            feats = as_levels(output)
            several = len(feats) > 1 and all(
                isinstance(feat, Tensor) and feat.dim() == 4 for feat in feats
            )
        if several and stages is None:
            return levels_of_outputs(wanted, feats)
        if wanted == 'neck':
            raise ValueError(
                f'The neck ({type(student.neck).__name__}) does not return several '
                'maps (N, C, H, W). Leave source out of the distiller: the stages of '
                'the backbone are then recorded as they run.'
            )
        if several:
            raise ValueError(
                f'stages={stages} of the distiller are for a {wanted} that returns one '
                f'map, but {type(student.backbone).__name__} returns {len(feats)}, '
                f'which are then the levels. Set student.{wanted}.out_indices instead.'
            )
        assert inner is not None
        training_output = output
        if reads_training_mode(student.backbone):
            inner = CallRecorder(student.backbone)
            parts = {wanted: student.backbone}
            record = self._dry_forward(student, parts, inner, input_size, True)
            training_output = record.last(wanted)
        extra = getattr(student.backbone, 'num_extra_tokens', None)
        levels = find_levels(
            wanted,
            output,
            training_output,
            inner,
            input_size or self.input_size,
            extra if isinstance(extra, int) else None,
            stages,
        )
        check_gradients(levels, inner, training_output)
        return levels

    def _dry_forward(
        self,
        student: BaseModel,
        parts: Dict[str, nn.Module],
        inner: Optional[Recorder],
        input_size: Optional[Tuple[int, int]],
        training: bool = False,
    ) -> Recorder:
        """Run a student once on noise and return the outputs of some parts.

        Args:
            student: Left as it was.
            parts: Modules by name; the first has to run.
            inner: What records more.
            input_size: Height and width of the image.
            training: Whether the parts, but not what is in them, are in training
                mode, as far as they ask, and gradients are kept.

        Raises:
            DryForwardError: If the student cannot run an image of this size.
        """
        size = input_size or self.input_size

        def run() -> Recorder:
            image = _noise(student, size)
            record = Recorder({name: (part, 'forward') for name, part in parts.items()})
            try:
                with dry_run(student), record, inner or nullcontext():
                    for part in parts.values() if training else ():
                        part.training = True
                    with torch.set_grad_enabled(training):
                        student.extract_feat(image)
            except Exception:
                # What comes after does not matter here.
                if not record.outputs[next(iter(parts))]:
                    raise
            return record

        try:
            return run()
        except Exception as error:
            home, device = next(student.parameters()).device, get_device()
            lacks = any(words in str(error) for words in NOT_ON_CPU)
            if not lacks or torch.device(device).type == home.type:
                raise _dry_forward_error(student, size, error) from error
        # Models are built on the CPU.
        try:
            student.to(device)
            return run()
        except Exception as error:
            raise _dry_forward_error(student, size, error) from error
        finally:
            student.to(home)

    def twin_cfg_on(
        self,
        levels: Levels,
        student_cfg: ConfigDict,
        out_channels: Sequence[int],
        rewire: bool = True,
    ) -> ConfigDict:
        """Return the config of the twin that runs on refined levels.

        Args:
            levels: Of the student.
            student_cfg: The student's own config.
            out_channels: Channels d_i of the refined levels.
            rewire: Whether the readers of the maps are set to these channels. If
                not, convolutions give them the student's own.

        Raises:
            RewiringError: If the readers have no channels that could be set.
        """
        refined = [out_channels[level] for level in levels.outputs]
        wanted = refined if rewire else levels.channels
        cfg = self.twin_cfg(student_cfg, levels.source, levels.channels, wanted)
        if levels.template is not None:
            cfg.backbone.template = levels.template
            cfg.backbone.eval_template = levels.eval_template
        if not rewire:
            read = self.outputs_read(levels, student_cfg)
            cfg.backbone.widths = {
                str(levels.outputs[i]): (refined[i], wanted[i])
                for i in read
                if refined[i] != wanted[i]
            }
        return cfg

    def outputs_read(self, levels: Levels, student_cfg: ConfigDict) -> List[int]:
        """Return which of the source's own outputs the twin reads, sorted."""
        number = len(levels.channels)
        if levels.eval_template != levels.template:
            return list(range(number))  # what is there in training alone is for it
        return self.levels_read(student_cfg, levels.source, number)

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

    def levels_read(
        self, student_cfg: ConfigDict, source: str, num_levels: int
    ) -> List[int]:
        """Return the levels of the source that the twin reads, sorted.

        Others never get a gradient from the twin's loss.

        Args:
            student_cfg: The student's own config.
            source: 'backbone' or 'neck'.
            num_levels: How many maps the source gives.
        """
        return list(range(num_levels))

    @abstractmethod
    def output_targets(self, model: BaseModel) -> Dict[str, Target]:
        """Return the methods whose outputs soft labels compare, by name."""

    def replayed_targets(self, model: BaseModel) -> Sequence[str]:
        """Name those methods that return in a twin what they gave in the student.

        They are random choices, of which the twin has to score the same.
        """
        return ()

    def record(
        self,
        model: BaseModel,
        source: Optional[Source] = None,
        preact: bool = False,
        follow: Optional[Pass] = None,
    ) -> Recorder:
        """Return a recorder of a model's outputs, and of its features ('feats').

        Args:
            model: A student, a twin or a teacher.
            source: 'backbone' or 'neck', whose outputs are recorded, or the levels;
                none by default.
            preact: Record also the maps before their ReLU ('preacts').
            follow: The student's pass whose random choices are taken over.
        """
        targets = self.output_targets(model)
        if source is not None:
            levels = as_source(source)
            module = self.source_module(model, levels.source)
            targets = {'feats': (module, 'forward'), **levels.targets(model)}
            targets.update(self.output_targets(model))
        values = {}
        if follow is not None:
            names = self.replayed_targets(model)
            # A two-stage teacher's student may have none of them.
            values = {n: follow.outputs[n] for n in names if n in follow.outputs}
        recorder = PreactRecorder if preact else Replayer
        return recorder(targets, values)

    def run(
        self,
        model: BaseModel,
        loss: LossFunction,
        inputs: Any,
        data_samples: Sequence[Any],
        source: Optional[Source] = None,
        preact: bool = False,
        follow: Optional[Pass] = None,
    ) -> Pass:
        """Run a model once and keep all that is compared.

        Args:
            model: A student, a twin or a teacher.
            loss: What runs it, the host library's own loss of the model.
            inputs: What the loss is given: images, or feature maps of a twin.
            data_samples: The N annotations.
            source: 'backbone' or 'neck', whose outputs are kept, or the levels;
                none by default.
            preact: Keep also the maps before their ReLU.
            follow: The student's pass, for a model that has to follow its random
                choices, such as sampled proposals.
        """
        with self.record(model, source, preact, follow) as record:
            losses = loss(inputs, self.copies(data_samples))
        one = Pass(model, losses, record.outputs)
        if source is not None:
            levels, size = as_source(source), image_size(inputs)
            one.feats = levels.read(record, size)
            one.preacts = levels.read(record, size, 'preacts') if preact else ()
        return one

    @abstractmethod
    def soft_labels(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> List[SoftLabels]:
        """Return what soft labels compare: one entry a head.

        Args:
            student: The student's pass.
            teacher: The pass of its twin or teacher on the same images.
            data_samples: Their N annotations.

        Raises:
            TypeError: If the outputs of a head cannot be compared.
        """

    def position_weights(
        self,
        foreground: Optional[str],
        feats: Sequence[Tensor],
        teacher: Pass,
        data_samples: Sequence[Any],
    ) -> Optional[List[Tensor]]:
        """Return weights of the maps' positions, for feature losses.

        Args:
            foreground: The kind of weights that a ``FeatureLoss`` asks for.
            feats: The maps, per level (N, C, H, W).
            teacher: The teacher's pass.
            data_samples: The N annotations.

        Returns:
            list[Tensor], optional: Per level (N, H, W); None for all 1.

        Raises:
            ValueError: If there are none of this kind.
        """
        if foreground is not None:
            raise ValueError(
                f'foreground={foreground!r} weighs positions of detectors. Remove it '
                'from the feature_loss of the distiller.'
            )
        return None

    def num_drawn_maps(self, student: BaseModel, identity: bool) -> int:
        """Return how many maps :meth:`draw_labels` draws a level.

        Args:
            student: The student.
            identity: Whether each class has a map of its own.

        Raises:
            TypeError: If the labels of this task have no places.
        """
        raise TypeError(
            f'{type(student).__name__} has no labels with a place that could be drawn: '
            'guidance is for segmentors and detectors. Remove guidance from the '
            'distiller.'
        )

    def num_box_classes(self, student: BaseModel) -> int:
        """Return the number of classes of the boxes that the student finds.

        Raises:
            TypeError: If its labels are no boxes.
        """
        raise TypeError(
            f'LGDGuidance encodes boxes, but {type(student).__name__} finds none. Set '
            'the type of guidance in the distiller to frskd_mm.LabelGuidance, or '
            'distil a detector.'
        )

    def draw_labels(
        self,
        student: BaseModel,
        data_samples: Sequence[Any],
        feats: Sequence[Tensor],
        guidance: LabelGuidance,
    ) -> Any:
        """Draw the ground truth on maps, as a ``LabelGuidance`` wants it.

        Args:
            student: The student.
            data_samples: The N annotations.
            feats: The maps, per level (N, C, H, W), whose sizes are taken.
            guidance: How much is left out and jittered.

        Returns:
            Any: What the guidance takes beside the maps: of a ``LabelGuidance`` per
            level (N, maps, H, W), fp32.

        Raises:
            ValueError: If the annotations have no labels.
        """
        raise NotImplementedError

    def predict(
        self,
        student: BaseModel,
        source: Source,
        self_teacher: BaseModule,
        inputs: Tensor,
        data_samples: Sequence[Any],
    ) -> Any:
        """Predict with the self-teacher, in the host library's form."""
        feats = self.extract_feats(student, source, inputs)
        return self_teacher.predict(feats, data_samples)

    def extract_feats(
        self, student: BaseModel, source: Source, inputs: Tensor
    ) -> Tuple[Tensor, ...]:
        """Return the source's maps of images, per level (N, C, H, W)."""
        with self.record(student, source) as record:
            student.extract_feat(inputs)
        return as_source(source).read(record, image_size(inputs))

    def copies(self, data_samples: Sequence[Any]) -> Sequence[Any]:
        """Return annotations that a model's loss may write into."""
        return data_samples

    def metrics(
        self, student: Pass, teacher: Pass, data_samples: Sequence[Any]
    ) -> Dict[str, Tensor]:
        """Return values to log; their names must not contain 'loss'."""
        return {}

    def check_labels(self, student: BaseModel, data_samples: Sequence[Any]) -> None:
        """Raise ``ValueError`` for labels that the head cannot have."""
        return None


def _noise(student: BaseModel, size: Tuple[int, int]) -> Tensor:
    """Return an image for a student: not zeros, since outputs are told apart."""
    channels = input_channels(student, size)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, channels, *size, generator=generator)
    return image.to(next(student.parameters()))


def _dry_forward_error(
    student: BaseModel, size: Tuple[int, int], error: Exception
) -> DryForwardError:
    """Say why a student does not run, and speak of the size only if that may be why."""
    height, width = size
    other: Optional[Exception] = None
    try:
        image = _noise(student, (2 * height, 2 * width))
        with dry_run(student):
            student.extract_feat(image)
    except Exception as found:
        other = found
    of_size = _is_of_size(error, other)
    channels = input_channels(student, size)
    advice = (
        "Set input_size=(height, width) in the distiller to the training images'."
        if of_size
        else f'On one of {2 * height}x{2 * width} it fails, too: see whether the plain '
        'student trains.'
    )
    return DryForwardError(
        f'{type(student).__name__} does not run on an image of {height}x{width} with '
        f'{channels} channels: {type(error).__name__}: {error} {advice}',
        of_size,
    )


def _is_of_size(error: Exception, other: Optional[Exception]) -> bool:
    """Whether the size of an image may be why it fails.

    Args:
        error: What happened.
        other: What happened on a larger image; None if that runs.
    """
    if other is None:
        return True
    text = str(error)
    if isinstance(error, NOT_OF_SIZE) or 'channels' in text:
        return False
    named = any(word in text.lower() for word in SIZE_WORDS)
    return named or not text or text != str(other)


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


def as_source(source: Source) -> Levels:
    """Return levels; those of a part's name are whatever it returns."""
    return Levels(source) if isinstance(source, str) else source


def image_size(images: Tensor) -> Tuple[int, int]:
    """Return height and width of images (N, C, H, W)."""
    height, width = images.shape[-2:]
    return height, width


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
    if 'post_process_channels' in cfg and list(in_channels) != list(out_channels):
        raise RewiringError(f'{cfg.get("type")} names its channels more than once.')
    for level in index if isinstance(index, (list, tuple)) else [index or 0]:
        if not -len(in_channels) <= level < len(in_channels):
            raise ValueError(
                f'in_index={index} of {cfg.get("type")} is out of range: the feature '
                f'source gives {len(in_channels)} maps, counted from 0. Change it, or '
                'let out_indices of the backbone have that level.'
            )
    if list(in_channels) == list(out_channels):
        return
    if isinstance(reads, int):
        if index is None:
            levels = [i for i, c in enumerate(in_channels) if c == reads]
            if not levels:
                raise RewiringError(
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
        number = len(in_channels)
        if [in_channels[i] for i in indices if i < number] != list(reads):
            raise RewiringError(
                f'{cfg.get("type")} reads {list(reads)} channels but the feature '
                f'source gives {list(in_channels)}.'
            )
        cfg['in_channels'] = [out_channels[i] for i in indices]
