"""Data as they come: errors that name the sample, and samples that are left out."""

import logging
import os
import os.path as osp
from collections import Counter
from functools import lru_cache, partial
from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from frskd_mm.utils.arguments import check_value, one_of

from .config import inner_dataset
from .sample_checks import BadSample, Expected, check_annotation, check_sample, nested

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
POLICIES = ('stop', 'skip')
#: In the folder of a run's log, a line for each time that a sample was left out.
SKIPPED_FILE = 'skipped_samples.txt'
#: Samples that are drawn for one that is left out, before the data are given up.
MAX_DRAWS = 1000
MAX_LISTED = 50
#: Keys of a sample that name a file, and what it is.
FILES = {
    'img_path': 'image',
    'seg_map_path': 'label map',
    'ann_path': 'annotation',
    'xml_path': 'annotation',
}
#: Functions in which a data set reads its annotations.
READERS = ('full_init', 'load_data_list', 'parse_data_info', 'filter_data')


class SampleError(ValueError):
    """A sample cannot be used; names its number and files.

    Args:
        message: The sentence. PyTorch hands on an error of a worker process with
            the worker's traceback as message: then the sentence is taken from it,
            and the traceback becomes the error's cause.
    """

    def __init__(self, message: str) -> None:
        full_name = f'{type(self).__module__}.{type(self).__qualname__}: '
        if message.startswith('Caught ') and full_name in message:
            self.__cause__ = RuntimeError(message)
            message = message.rpartition(full_name)[2].strip()
        super().__init__(message)


class Watch(NamedTuple):
    """What is told of a data set's samples, and what is done about bad ones."""

    #: The data loader's key in the config.
    loader: str
    #: The data set's class.
    kind: str
    #: Whether bad samples are left out.
    skips: bool
    #: Where these are noted.
    log_dir: str
    expected: Expected

    @property
    def is_training(self) -> bool:
        """Whether a model learns from the samples."""
        return self.loader == LOADERS[0]


def watch_samples(runner: Runner, cfg: Config) -> None:
    """Let all data loaders that a runner builds name the samples of their errors.

    With ``bad_samples='skip'`` of the config, training goes on without the
    samples that cannot be used. Another one is drawn in place of each, by numpy's
    generator, as MMEngine does where a pipeline gives nothing. Evaluations stop at
    them: a metric of the others could not be compared.

    The data sets keep their class, attributes and random numbers.

    Args:
        runner: Its ``build_dataloader`` is replaced, on the instance.
        cfg: Its config.

    Raises:
        ArgumentError: If ``bad_samples`` is neither 'stop' nor 'skip'.
    """
    policy = cfg.get('bad_samples', 'stop')
    check_value('the config', 'bad_samples', policy, str, one_of(*POLICIES))
    runner.build_dataloader = partial(
        _build_watched, runner, runner.build_dataloader, cfg, policy == 'skip'
    )


def _build_watched(
    runner: Runner,
    build: Callable[..., DataLoader],
    cfg: Config,
    skip: bool,
    dataloader: Any,
    **kwargs: Any,
) -> DataLoader:
    if isinstance(dataloader, DataLoader):
        return build(dataloader, **kwargs)
    name = _loader_name(runner, cfg, dataloader)
    try:
        loader = build(dataloader, **kwargs)
    except Exception as error:
        _explain_reading(error, name, dataloader)
        raise
    _check_classes(cfg, name, loader.dataset)
    watch = Watch(name, '', False, runner.log_dir, _expected(cfg))
    for dataset in nested(loader.dataset):
        skips = skip and dataset is loader.dataset and name == LOADERS[0]
        kind: type = type(dataset)
        dataset._watch = watch._replace(kind=kind.__name__, skips=skips)
        dataset.__class__ = _watched_class(kind)
    loader.collate_fn = Collate(name, loader.collate_fn)
    return loader


def _loader_name(runner: Runner, cfg: Config, dataloader: Any) -> str:
    for key in LOADERS:
        if getattr(runner, f'_{key}', None) is dataloader:
            return key
    return next((key for key in LOADERS if cfg.get(key) == dataloader), 'data loader')


def _check_classes(cfg: Config, loader: str, dataset: Any) -> None:
    """Require that classifiers and segmentors have all classes of the data.

    mmdet checks its own, with a hook.

    Raises:
        ValueError: If they have fewer.
    """
    model = _student(cfg)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    for part in ('head', 'decode_head'):
        for head in _heads(model, part):
            number = head.get('num_classes')
            # A segmentor tells two classes apart by one logit.
            if isinstance(number, int) and max(number, 2) < len(classes):
                raise ValueError(
                    f'The data of {loader} have {len(classes)} classes, but {part}.'
                    f'num_classes of the model is {number}. Let them agree.'
                )


def _student(cfg: Config) -> Dict[str, Any]:
    model = cfg.get('model') or {}
    return model.get('student') or model


def _heads(model: Dict[str, Any], part: str) -> Sequence[Dict[str, Any]]:
    """Return the configs of a part that may be several, as cascades have."""
    heads = model.get(part) or []
    return heads if isinstance(heads, (list, tuple)) else [heads]


def _expected(cfg: Config) -> Expected:
    """Return what the model takes."""
    model = _student(cfg)
    preprocessor = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean = preprocessor.get('mean')
    number = len(mean) if isinstance(mean, (list, tuple)) else 1
    ignored = {
        head['ignore_index']
        for head in _heads(model, 'decode_head')
        if isinstance(head.get('ignore_index'), int)
    }
    # One value is for any number of channels.
    return Expected(number if number > 1 else None, frozenset(ignored))


@lru_cache(maxsize=None)
def _watched_class(kind: type) -> type:
    """Return the subclass of a data set's class that names samples.

    It has a single base: an instance only takes a class of its own layout.
    """
    if hasattr(kind, '_plain'):
        return kind
    methods = {'__getitem__': _get_item, '__reduce_ex__': _reduce}
    if hasattr(kind, 'prepare_data'):
        methods['prepare_data'] = _prepare_data
    settings = {'__module__': kind.__module__, '__doc__': kind.__doc__, '_plain': kind}
    return type(kind.__name__, (kind,), {**settings, **methods})


def _get_item(dataset: Any, index: int) -> Any:
    """Return a sample, or another in its place where bad ones are left out."""
    watch: Watch = dataset._watch
    if not watch.skips:
        return _named_item(dataset, index)
    for _ in range(MAX_DRAWS):
        try:
            return _named_item(dataset, index)
        except SampleError as error:
            _note(watch, str(error))
            index = int(np.random.randint(len(dataset)))
    raise SampleError(
        f'{MAX_DRAWS} samples of {watch.loader} in a row could not be used. The last '
        f'ones are in {osp.join(watch.log_dir, SKIPPED_FILE)}.'
    )


def _named_item(dataset: Any, index: int) -> Any:
    try:
        sample = dataset._plain.__getitem__(dataset, index)
        if not hasattr(dataset, 'prepare_data'):  # else it was checked there
            watch: Watch = dataset._watch
            check_sample(sample, dataset, watch.expected, watch.is_training)
        return sample
    except SampleError:
        raise
    except Exception as error:
        raise sample_error(dataset, index, error) from error


def _prepare_data(dataset: Any, index: int) -> Any:
    """Run the pipeline, and look at what comes out.

    The data set may go on to another sample where it gives nothing.
    """
    try:
        sample = dataset._plain.prepare_data(dataset, index)
        watch: Watch = dataset._watch
        if watch.is_training:  # metrics take boxes of any form
            check_annotation(dataset, index)
        check_sample(sample, dataset, watch.expected, watch.is_training)
        return sample
    except SampleError:
        raise
    except Exception as error:
        raise sample_error(dataset, index, error) from error


def _reduce(dataset: Any, protocol: Any) -> tuple:
    """Support copies, and workers that are spawned: the class is made on the spot."""
    # Some leave out what cannot be copied, such as an open data base.
    get_state = getattr(dataset, '__getstate__', None)  # of all since Python 3.11
    state = get_state() if get_state is not None else dataset.__dict__
    return _empty, (type(dataset)._plain,), state


def _empty(kind: type) -> Any:
    watched: Any = _watched_class(kind)
    return watched.__new__(watched)


def sample_error(dataset: Any, index: int, error: Exception) -> SampleError:
    """Return the error that names a sample and what is wrong with it."""
    watch: Watch = dataset._watch
    try:
        info = dataset.get_data_info(index)
    except Exception:  # then its number has to do
        info = {}
    files = [f'{what} {info[key]}' for key, what in FILES.items() if info.get(key)]
    named = f' ({", ".join(files)})' if files else ''
    problem = str(error)
    if not isinstance(error, BadSample):
        problem = f'{type(error).__name__}: {problem}'
    advice = (
        "Mend or remove it, or set bad_samples='skip' in the config to train without "
        'such samples.'
        if watch.is_training
        else 'Mend or remove it: evaluations leave nothing out.'
    )
    return SampleError(
        f'Sample {index} of {watch.kind} in {watch.loader}{named} cannot be used. '
        f'{problem.rstrip(".")}. {advice}'
    )


class Collate:
    """A collate function that names the samples which do not go together.

    Args:
        loader: The data loader's key in the config.
        collate: The function of the data loader.
    """

    def __init__(self, loader: str, collate: Callable[[Any], Any]) -> None:
        self.loader = loader
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        """Make a batch of samples.

        Raises:
            SampleError: If they cannot be put together.
        """
        try:
            return self.collate(samples)
        except Exception as error:
            listed = '; '.join(map(_shape_of, samples))
            raise SampleError(
                f'The samples of a batch of {self.loader} do not go together. '
                f'{type(error).__name__}: {error}. They are {listed}. Let the '
                'pipeline bring them to one size and number of channels.'
            ) from error


def _shape_of(sample: Any) -> str:
    from frskd_mm.models.tasks.base import sample_name

    if not isinstance(sample, dict):
        return type(sample).__name__
    inputs, annotation = sample.get('inputs'), sample.get('data_samples')
    name = sample_name(annotation) if hasattr(annotation, 'metainfo') else 'no name'
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
    return f'{name} {shape}'


def _explain_reading(error: Exception, loader: str, cfg: Dict[str, Any]) -> None:
    """Raise an error that names the file, if a data set could not be read.

    Raises:
        FileNotFoundError: If a file is not there.
        SampleError: If one is there, but damaged.
    """
    entries = []
    entry = error.__traceback__
    while entry is not None:
        entries.append(entry.tb_frame)
        entry = entry.tb_next
    module = str(entries[-1].f_globals.get('__name__'))
    reads = any(frame.f_code.co_name in READERS for frame in entries)
    if not reads or module.startswith('frskd_mm'):
        return  # our own data sets say what is wrong
    found: List[str] = []
    for frame in reversed(entries):
        found += [
            str(value)
            for name, value in frame.f_locals.items()
            if name.endswith(('path', 'file', 'filename')) and isinstance(value, str)
        ]
    dataset = inner_dataset(cfg.get('dataset') or {})
    culprit = next((path for path in found if path), dataset.get('ann_file'))
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else SampleError
    raise kind(
        f'The data set of {loader} ({dataset.get("type")}) cannot be read, at '
        f'{culprit}. {type(error).__name__}: {error}'
    ) from error


def _note(watch: Watch, sentence: str) -> None:
    """Write down that a sample was left out; other processes may do so, too."""
    line = sentence.partition(' Mend or remove')[0].replace('\n', ' ')
    os.makedirs(watch.log_dir, exist_ok=True)
    path = osp.join(watch.log_dir, SKIPPED_FILE)
    # One write to the end of the file is not mixed up with those of others.
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, f'{line}\n'.encode())
    finally:
        os.close(file)


def report_skipped(log_dir: str) -> None:
    """Log which samples a training left out, and how often.

    Args:
        log_dir: Folder of the run's log.
    """
    path = osp.join(log_dir, SKIPPED_FILE)
    if not osp.isfile(path):
        return
    with open(path, encoding='utf-8') as file:
        counts = Counter(line.rstrip('\n') for line in file)
    lines = [f'  {number} times: {line}' for line, number in counts.most_common()]
    hidden = len(lines) - MAX_LISTED
    more = [f'  and {hidden} more, see {path}'] if hidden > 0 else []
    print_log(
        '\n'.join(
            [
                f'Samples that could not be used and were left out: {len(counts)}, '
                f'{sum(counts.values())} times in all.',
                *lines[:MAX_LISTED],
                *more,
            ]
        ),
        logger='current',
        level=logging.WARNING,
    )
