"""Reading configs and applying command-line options."""

import difflib
import logging
import os
import os.path as osp
import traceback
from copy import deepcopy
from glob import escape, glob
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Callable, Iterator, List, Optional, Sequence

from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from frskd_mm.models.distilled import is_distilled
from frskd_mm.utils.checkpoint_files import find_damage, has_checkpoints
from frskd_mm.utils.environment import (
    DETECTION_SCOPES,
    EXTRAS,
    HOSTS,
    has_host,
    missing_host,
)
from frskd_mm.utils.model import class_of
from frskd_mm.utils.scope import drop_own_scope, type_name

CONFIG_ENDINGS = ('.py', '.json', '.yaml', '.yml')
#: What the runner, the hosts' tools or ours read of a config's top level.
KNOWN_KEYS = frozenset(
    """model work_dir train_dataloader val_dataloader test_dataloader train_cfg val_cfg
    test_cfg auto_scale_lr optim_wrapper param_scheduler val_evaluator test_evaluator
    default_hooks custom_hooks data_preprocessor load_from resume launcher env_cfg
    log_processor log_level visualizer default_scope randomness experiment_name
    custom_imports model_wrapper_cfg sync_bn find_unused_parameters compile strategy
    runner_type tta_model tta_pipeline activation_checkpointing bad_samples
    non_finite trust_checkpoint""".split()
)
#: Value of ``resume``: from the newest checkpoint, although there is a ``load_from``.
AUTO = 'auto'
#: Variables in the hosts' configs that resemble these.
HELPERS = ('models',)
#: A key of so many letters may have two wrong ones to be recognised.
LONG_KEY = 9
#: What a launcher tells the processes that it starts.
LAUNCHER_VARIABLES = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    'mpi': ('OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_RANK'),
}


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Read a config file, or one of an installed library by ``mmdet::...``.

    Args:
        path: File path or ``package::path``.
        options: Values that replace the config's, by dotted key.

    Returns:
        Config: With its ``filename`` set.

    Raises:
        FileNotFoundError: If there is no such file; names similar ones.
        ImportError: If the package is not installed.
        ValueError: If a path in a package names no folder, the file is no config,
            a key of the config is almost one that is known, or one of the options
            is neither known nor in the config.
    """
    package, separator, name = path.partition('::')
    if separator:
        if '/' not in name:
            raise ValueError(
                f"MMEngine wants a folder after '::', which {path} lacks. Write for "
                f'example {package}::_base_/../{name}.'
            )
        if package in (*HOSTS, *EXTRAS) and not has_host(package):
            raise missing_host(package, path)
        spec = find_spec(package)
        origin = spec.origin if spec is not None else None
        folder = osp.join(osp.dirname(origin or ''), '.mim', 'configs')
        if osp.isdir(folder) and not osp.isfile(osp.join(folder, name)):
            raise FileNotFoundError(_no_such_file('config', osp.join(folder, name)))
        cfg = read_config(path, get_config)
    else:
        _check_config_file(path)
        cfg = read_config(path)
    check_keys(cfg)
    if options:
        _check_options(cfg, options)
        cfg.merge_from_dict(options)
    return cfg


def _check_config_file(path: str) -> None:
    if osp.isdir(path):
        found = sorted(glob(osp.join(escape(path), '*.py')))
        raise FileNotFoundError(
            f'{path} is a folder. Name a config file'
            f'{f", such as {found[0]}" if found else ""}.'
        )
    if not osp.isfile(path):
        raise FileNotFoundError(_no_such_file('config', path))
    if not path.endswith(CONFIG_ENDINGS):
        raise ValueError(
            f'{path} is not a config: the name has to end in '
            f'{", ".join(CONFIG_ENDINGS)}.'
        )


def read_config(path: str, read: Callable[[str], Config] = Config.fromfile) -> Config:
    """Read a config, and say what is wrong with it if that fails.

    Args:
        path: File, or ``package::path``.
        read: MMEngine's function that reads it.

    Raises:
        FileNotFoundError: If it inherits a file that is not there.
        ValueError: If its Python cannot be executed.
    """
    try:
        cfg = read(path)
        drop_own_scope(list(cfg.values()))  # imports what a config imports, too
        return cfg
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f'{path} inherits a file that is not there: {error}'
        ) from error
    except Exception as error:
        line = ''
        for frame in traceback.extract_tb(error.__traceback__):
            if osp.basename(frame.filename) in (osp.basename(path), '<string>'):
                line = f', line {frame.lineno}'
        raise ValueError(
            f'{path}{line} cannot be read as a config: {type(error).__name__}: {error}'
        ) from error


def check_keys(cfg: Config) -> None:
    """Refuse top-level keys that resemble one that is read, but are not read.

    A config may hold any variable of its own, so MMEngine takes no notice of
    ``train_dataloder``, and trains as if it were not there.

    Raises:
        ValueError: If there is such a key.
    """
    for key in cfg:
        if key in KNOWN_KEYS or key in HELPERS:
            continue
        allowed = 1 if len(key) < LONG_KEY else 2
        for known in KNOWN_KEYS:
            if _edits(key, known, allowed) <= allowed:
                raise ValueError(
                    f'Nothing reads the key {key} of the config '
                    f'({cfg.filename}). Did you mean {known}? If it is a variable of '
                    'your own, give it another name.'
                )


def _edits(first: str, second: str, limit: int) -> int:
    """Return how many letters were left out, added, changed or swapped."""
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: List[int] = []
    last, row = before, list(range(len(second) + 1))
    for i, letter in enumerate(first):
        before, last, row = last, row, [i + 1]
        for j, other in enumerate(second):
            edits = min(last[j + 1] + 1, row[j] + 1, last[j] + (letter != other))
            if i and j and (letter, first[i - 1]) == (second[j - 1], other):
                edits = min(edits, before[j - 1] + 1)
            row.append(edits)
    return row[-1]


def _check_options(cfg: Config, options: dict) -> None:
    """Refuse options that nothing reads, and tell of variables.

    Raises:
        ValueError: If the config has no such key, and nothing reads one.
    """
    for key in options:
        first = key.split('.')[0]
        if first in KNOWN_KEYS:
            continue
        rest = key[len(first) :]
        paths = [f'{path}{rest}' for path in _paths_to(cfg.to_dict(), first)]
        meant = f' Set {" or ".join(paths[:3])} instead.' if paths else ''
        if first in cfg:
            print_log(
                f'{first} is a variable of the config file, which was read before '
                f'--cfg-options changed it: what was made of it stays as it is.{meant}',
                logger='current',
                level=logging.WARNING,
            )
            continue
        similar = difflib.get_close_matches(first, [*cfg, *KNOWN_KEYS], 1, cutoff=0.9)
        if similar:
            meant = f' Is it {similar[0]}?'
        raise ValueError(
            f'The config has no {first}, which {key} would set, and nothing reads '
            f'it.{meant}'
        )


def _paths_to(part: Any, name: str, path: str = '') -> Iterator[str]:
    """Yield the dotted keys that end in a name, below those that are read."""
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if not path and key not in KNOWN_KEYS:
            continue
        here = f'{path}.{key}' if path else key
        if key == name:
            yield here
        yield from _paths_to(value, name, here)


def _no_such_file(kind: str, path: str) -> str:
    extension = osp.splitext(path)[1]
    folder = osp.dirname(path) or '.'
    neighbours = [
        osp.basename(name) for name in glob(osp.join(escape(folder), f'*{extension}'))
    ]
    similar: List[str] = difflib.get_close_matches(osp.basename(path), neighbours)
    hint = f' Similar: {", ".join(osp.join(folder, s) for s in similar)}.'
    return f'There is no {kind} {path}.{hint if similar else ""}'


def check_checkpoint_file(path: str) -> None:
    """Refuse a checkpoint that cannot be read, before anything is built.

    URLs and other schemes are left to MMEngine.

    Raises:
        FileNotFoundError: If there is no such file; names similar ones.
        ValueError: If the file is truncated or not a checkpoint.
    """
    if '://' in path:
        return
    if osp.isdir(path):
        found = sorted(glob(osp.join(escape(path), '*.pth')))
        raise FileNotFoundError(
            f'{path} is a folder. Name a checkpoint, such as '
            f'{found[-1] if found else osp.join(path, "epoch_1.pth")}.'
        )
    if not osp.isfile(path):
        raise FileNotFoundError(_no_such_file('checkpoint', path))
    damage = find_damage(path)
    if damage is not None:
        raise ValueError(
            f'{path} is not a complete PyTorch checkpoint: {damage}. Use another one, '
            'for example the previous epoch of the same work directory.'
        )


def check_data_roots(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse data sets of mmseg, mmdet and mmrotate whose folder is not there.

    mmpretrain's data sets may download theirs.

    Args:
        cfg: Complete config.
        loaders: Keys of the data loaders that are used.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if cfg.get('default_scope') not in ('mmseg', *DETECTION_SCOPES):
        return
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset', {})
        key = f'{loader}.dataset'
        while 'dataset' in dataset:  # a wrapper
            dataset, key = dataset.dataset, f'{key}.dataset'
        root = dataset.get('data_root')
        is_local = root and '://' not in root and not dataset.get('backend_args')
        if is_local and _depends_on_root(dataset) and not osp.isdir(root):
            raise FileNotFoundError(
                f'There is no folder {osp.abspath(root)} for the {key}. Put the data '
                f'there or set {key}.data_root; the configs of frskd_mm look in the '
                'folder that the environment variable FRSKD_DATA names.'
            )


def _depends_on_root(dataset: Any) -> bool:
    """Whether MMEngine joins a path of a data set to its data_root."""
    prefixes = dataset.get('data_prefix') or {}
    paths = [dataset.get('ann_file'), *prefixes.values()]
    return not prefixes or not all(
        isinstance(path, str) and (osp.isabs(path) or '://' in path)
        for path in paths
        if path is not None
    )


def out_folders(cfg: Config) -> List[str]:
    """Return where MMEngine's hook puts checkpoints beside the work directory."""
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    name = osp.basename(osp.abspath(cfg.work_dir))
    return [osp.join(str(hook['out_dir']), name)] if hook.get('out_dir') else []


def check_sample_indices(cfg: Config) -> None:
    """Refuse a concatenated training set for methods that number its images.

    Raises:
        ValueError: If the parts of the training set are numbered each from 0.
    """
    distiller = cfg.model.get('distiller') or {}
    loader = cfg.get('train_dataloader') or {}
    if 'type' not in distiller or 'dataset' not in loader:
        return
    method = class_of(distiller)
    if not getattr(method, 'reads_sample_idx', False):
        return
    kind = dataset_class(inner_dataset(loader['dataset']), cfg.get('default_scope'))
    if isinstance(kind, type) and issubclass(kind, ConcatDataset):
        raise ValueError(
            f'{method.__name__} tells images apart by sample_idx, but the '
            f'{kind.__name__} of train_dataloader numbers each of its parts from 0. '
            'Train on one data set, with a single list of images, or with another '
            'method.'
        )


def renamed(cfg: Config, filename: str) -> Config:
    """Return a copy that the runner writes to the work directory under another name."""
    # What a pure Python config imports stays what it is, but modules, which cannot be
    # copied: they are nothing that a part is built from.
    kept = {k: v for k, v in cfg._cfg_dict.items() if not isinstance(v, ModuleType)}
    copy = cfg.copy()
    object.__setattr__(copy, '_cfg_dict', deepcopy(type(cfg._cfg_dict)(kept)))
    object.__setattr__(copy, '_filename', filename)
    object.__setattr__(copy, '_text', cfg.text or '\n')
    return copy


def resolve_work_dir(
    cfg: Config,
    config_path: str,
    work_dir: Optional[str],
    method: Optional[str] = None,
) -> str:
    """Return the work directory: argument, else config, else its file name.

    Args:
        cfg: Training config.
        config_path: File that it was read from.
        work_dir: What the user asked for.
        method: Name of the method that the config was wrapped with. The work
            directory of the config itself is that of the plain student.
    """
    if work_dir:
        return work_dir
    if not cfg.get('work_dir'):
        return osp.join('work_dirs', osp.splitext(osp.basename(config_path))[0])
    if method is None:
        return cfg.work_dir
    folder, name = osp.split(cfg.work_dir.rstrip('/' + os.sep))
    return osp.join(folder, f'{method}_{name}')


def check_launcher(launcher: str) -> None:
    """Refuse a launcher that did not start this process.

    Raises:
        ValueError: If the variables that it sets are not there.
    """
    missing = [
        name for name in LAUNCHER_VARIABLES.get(launcher, ()) if name not in os.environ
    ]
    # The runner takes a process group that is there already as it is.
    if not missing or is_distributed():
        return
    how = {
        'pytorch': 'torchrun --nproc_per_node=2 -m frskd_mm train ...',
        'slurm': 'srun frskd train ...',
        'mpi': 'mpirun -np 2 frskd train ...',
    }[launcher]
    raise ValueError(
        f'--launcher {launcher} is for processes that the launcher starts, but '
        f'{", ".join(missing)} of the environment are not set. Start them with {how} '
        f'--launcher {launcher}, or leave --launcher out to train in one process.'
    )


def configure_run(
    cfg: Config,
    work_dir: str,
    launcher: str = 'none',
    resume: Optional[str] = None,
    amp: bool = False,
    auto_scale_lr: bool = False,
    validate: bool = True,
) -> Config:
    """Apply the options that the host libraries' ``tools/train.py`` have.

    Args:
        cfg: Training config; changed in place.
        work_dir: Where logs and checkpoints go.
        launcher: 'none', 'pytorch', 'slurm' or 'mpi'.
        resume: 'auto' for the newest checkpoint in ``work_dir``, or a path.
        amp: Train with automatic mixed precision.
        auto_scale_lr: Scale the learning rate with the real batch size.
        validate: Evaluate during training.

    Returns:
        Config: The same one.

    Raises:
        ValueError: If an option does not suit the config or the machine.
    """
    if not isinstance(cfg.get('model'), dict):
        raise ValueError(
            f'{cfg.filename or "The config"} has no model=dict(...). Is it one of the '
            'files that others inherit?'
        )
    if 'distiller' in cfg.model and not is_distilled(cfg.model):
        raise ValueError(
            'The options set model.distiller, but nothing distils the '
            f'{cfg.model.type}. Name a method, as --method frskd, or give a config '
            'with one.'
        )
    cfg.work_dir = work_dir
    check_launcher(launcher)
    cfg.launcher = launcher
    if resume == AUTO:
        if cfg.get('load_from') and not has_checkpoints(work_dir, out_folders(cfg)):
            print_log(
                f'No checkpoint in {work_dir}: the run begins anew, from '
                f'{cfg.load_from}.',
                logger='current',
                level=logging.WARNING,
            )
            cfg.resume = False
        else:
            # Where it began stays in the config that the runner writes.
            cfg.resume = AUTO if cfg.get('load_from') else True
    elif resume is not None:
        is_folder = osp.isdir(resume) and resume.rstrip('/').endswith('.pth')
        if not (is_folder and cfg.get('strategy')):  # as DeepSpeed's are
            check_checkpoint_file(resume)
        cfg.resume, cfg.load_from = True, resume
    if amp:
        if cfg.get('strategy', {}).get('type') == 'DeepSpeedStrategy':
            raise ValueError(
                '--amp: DeepSpeed has mixed precision of its own. Leave --amp out and '
                'set strategy.bf16=dict(enabled=True) in the config.'
            )
        if 'optimizer' not in cfg.optim_wrapper:
            raise ValueError(
                '--amp: the config has several optimisers. Leave --amp out and set '
                "type='AmpOptimWrapper' in each of optim_wrapper's."
            )
        if get_device() == 'cpu':
            raise ValueError(
                '--amp: MMEngine has mixed precision for accelerators only, and '
                'none was found. Leave --amp out.'
            )
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise ValueError(
                '--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in '
                'the config.'
            )
        cfg.auto_scale_lr.enable = True
    if not validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    return cfg


def inner_dataset(dataset: Any) -> Any:
    """Return the config of the data set that lies within wrappers."""
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def dataset_class(dataset: Any, scope: Optional[str]) -> Any:
    """Return the class that a data set's config names, None if there is none."""
    kind = dataset.get('type')
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(scope) as registry:
            kind = registry.get(kind)
    return kind


def outer_pipeline(dataset: Any) -> List[Any]:
    """Return the transforms of a data set or, if it has none, of what it wraps."""
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset['dataset'] if 'dataset' in dataset else dataset['datasets'][0]
    return list(dataset.get('pipeline') or [])


def loads_files(dataset: Any) -> bool:
    """Whether a data set's pipeline loads image files."""
    steps = outer_pipeline(dataset)
    return any(type_name(step.get('type')) == 'LoadImageFromFile' for step in steps)
