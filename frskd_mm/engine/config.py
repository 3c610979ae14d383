"""Reading configs and applying command-line options."""

import difflib
import os.path as osp
import zipfile
from glob import glob
from importlib.util import find_spec
from typing import List, Optional, Sequence

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hub import get_config

from frskd_mm.utils.environment import HOSTS, has_host, missing_host
from frskd_mm.utils.scope import drop_own_scope


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
        ValueError: If a path in a package names no folder, or an option's key is
            almost one of the config.
    """
    package, separator, name = path.partition('::')
    if separator:
        if '/' not in name:
            raise ValueError(
                f"MMEngine wants a folder after '::', which {path} lacks. Write for "
                f'example {package}::_base_/../{name}.'
            )
        if package in HOSTS and not has_host(package):
            raise missing_host(package, path)
        spec = find_spec(package)
        origin = spec.origin if spec is not None else None
        folder = osp.join(osp.dirname(origin or ''), '.mim', 'configs')
        if osp.isdir(folder) and not osp.isfile(osp.join(folder, name)):
            raise FileNotFoundError(_no_such_file('config', osp.join(folder, name)))
        cfg = get_config(path)
    else:
        if not osp.isfile(path):
            raise FileNotFoundError(_no_such_file('config', path))
        cfg = Config.fromfile(path)
    drop_own_scope(cfg._cfg_dict)
    if options:
        _check_options(cfg, options)
        cfg.merge_from_dict(options)
    return cfg


def _check_options(cfg: Config, options: dict) -> None:
    """Refuse what looks like a misspelt key, which MMEngine would ignore."""
    for key in options:
        first = key.split('.')[0]
        similar = difflib.get_close_matches(first, cfg.keys(), n=1, cutoff=0.9)
        if first not in cfg and similar:
            raise ValueError(
                f'The config has no {first}, which {key} would set. Is it {similar[0]}?'
            )


def _no_such_file(kind: str, path: str) -> str:
    extension = osp.splitext(path)[1]
    folder = osp.dirname(path) or '.'
    neighbours = [
        osp.basename(name) for name in glob(osp.join(folder, f'*{extension}'))
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
        found = sorted(glob(osp.join(path, '*.pth')))
        raise FileNotFoundError(
            f'{path} is a folder. Name a checkpoint, such as '
            f'{found[-1] if found else osp.join(path, "epoch_1.pth")}.'
        )
    if not osp.isfile(path):
        raise FileNotFoundError(_no_such_file('checkpoint', path))
    with open(path, 'rb') as file:
        is_pickle = file.read(1) == b'\x80'  # PyTorch's format before 1.6
    if not is_pickle and not _is_intact_zip(path):
        raise ValueError(
            f'{path} is not a complete PyTorch checkpoint: it was cut off or damaged '
            'while it was written or copied, or is another kind of file. Use another '
            'one, for example the previous epoch of the same work directory.'
        )


def _is_intact_zip(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None  # compares check sums
    except Exception:  # damaged bytes end in errors of many kinds
        return False


def check_data_roots(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse data sets of mmseg and mmdet whose folder is not there.

    mmpretrain's data sets may download theirs.

    Args:
        cfg: Complete config.
        loaders: Keys of the data loaders that are used.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if cfg.get('default_scope') not in ('mmseg', 'mmdet'):
        return
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get('dataset', {})
        key = f'{loader}.dataset'
        while 'dataset' in dataset:  # a wrapper
            dataset, key = dataset.dataset, f'{key}.dataset'
        root = dataset.get('data_root')
        is_local = root and '://' not in root and not dataset.get('backend_args')
        if is_local and not osp.isdir(root):
            raise FileNotFoundError(
                f'There is no folder {osp.abspath(root)} for the {key}. Put the data '
                f'there or set {key}.data_root; the configs of frskd_mm look in the '
                'folder that the environment variable FRSKD_DATA names.'
            )


def resolve_work_dir(cfg: Config, config_path: str, work_dir: Optional[str]) -> str:
    """Return the work directory: argument, else config, else its file name."""
    name = osp.splitext(osp.basename(config_path))[0]
    return work_dir or cfg.get('work_dir') or osp.join('work_dirs', name)


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
    if 'distiller' in cfg.model and cfg.model.type != 'frskd_mm.Distilled':
        raise ValueError(
            'The options set model.distiller, but nothing distils the '
            f'{cfg.model.type}. Name a method, as --method frskd, or give a config '
            'with one.'
        )
    cfg.work_dir = work_dir
    cfg.launcher = launcher
    if resume == 'auto':
        cfg.resume, cfg.load_from = True, None
    elif resume is not None:
        check_checkpoint_file(resume)
        cfg.resume, cfg.load_from = True, resume
    if amp:
        if cfg.get('strategy', {}).get('type') == 'DeepSpeedStrategy':
            raise ValueError(
                '--amp: DeepSpeed has mixed precision of its own. Leave --amp out and '
                'set strategy.bf16=dict(enabled=True) in the config.'
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
