"""Taking the student out of a distilled checkpoint."""

import os
import os.path as osp
from copy import deepcopy
from typing import Any, Dict, Tuple

from mmengine.config import Config
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from frskd_mm.models.distilled import DISTILLER_PREFIX
from frskd_mm.utils.checkpoint import find_misfits, summarize_misfits, weights_of
from frskd_mm.utils.model import build_model

from .config import check_checkpoint_file

#: Variables that a method's files leave in a config that inherits them.
LEFTOVERS = ('student', 'teacher', 'distiller', 'dataset_wrapper')
DISTILLER_HOOKS = ('frskd_mm.AggregatedPredictionHook',)


def student_config(cfg: Config) -> Config:
    """Return the config of the plain student on the same recipe.

    Takes back what :func:`frskd_mm.engine.wrap.wrap` adds: the distiller, the pairs
    of the data loader and the import of this package. Hooks that need a distiller go,
    too. What a method changes in the student itself stays, such as Mixup or the
    levels that its backbone returns.

    Args:
        cfg: Config whose model is ``frskd_mm.Distilled``; left as it is.

    Raises:
        ValueError: If the model is not distilled.
    """
    if cfg.model.get('type') != 'frskd_mm.Distilled':
        raise ValueError(
            f'The model of the config is {cfg.model.get("type")!r}, not '
            'frskd_mm.Distilled: it is a plain model already.'
        )
    plain = deepcopy(cfg.to_dict())
    plain['model'] = plain['model']['student']
    for leftover in LEFTOVERS:
        plain.pop(leftover, None)
    if plain.get('train_dataloader'):
        plain['train_dataloader'] = _without_pairs(plain['train_dataloader'])
    if plain.get('custom_hooks'):
        hooks = plain['custom_hooks']
        plain['custom_hooks'] = [h for h in hooks if h['type'] not in DISTILLER_HOOKS]
    if plain.get('custom_imports'):
        imports = plain['custom_imports']['imports']
        imports = [imports] if isinstance(imports, str) else imports
        imports = [name for name in imports if name != 'frskd_mm']
        plain['custom_imports']['imports'] = imports
        if not imports:
            plain.pop('custom_imports')
    return Config(plain)


def _without_pairs(part: Any) -> Any:
    """Return a part of a data loader's config that gives samples, not pairs."""
    if isinstance(part, (list, tuple)):
        return type(part)(map(_without_pairs, part))
    if not isinstance(part, dict):
        return part
    if part.get('type') == 'frskd_mm.PairDataset':
        return _without_pairs(part['dataset'])
    if part.get('type') == 'frskd_mm.collate_pairs':
        return dict(type=part.get('collate', 'default_collate'))
    return {key: _without_pairs(value) for key, value in part.items()}


def export_student(cfg: Config, checkpoint: str, out: str) -> Tuple[str, str]:
    """Write the student of a training checkpoint for its host library.

    The plain student is built from the config and the weights are loaded
    strictly, so a file that is written fits.

    Args:
        cfg: Config that the distilled model was trained with.
        checkpoint: Training checkpoint.
        out: File to write; its folder is created.

    Returns:
        tuple[str, str]: Paths of the checkpoint and of the student's config,
        which is written beside it.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If it is unreadable or not of this config, or ``out`` would
            overwrite something else than an earlier export.
    """
    check_checkpoint_file(checkpoint)
    plain = student_config(cfg)
    config_path = osp.splitext(out)[0] + '.py'
    _check_out(checkpoint, out, config_path, plain)
    loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    meta = loaded.get('meta', {})
    return write_student(plain, weights_of(loaded), meta, out, origin=checkpoint)


def write_student(
    plain: Config, weights: Dict[str, Any], meta: Dict[str, Any], out: str, origin: str
) -> Tuple[str, str]:
    """Write a student's checkpoint, and its config beside it.

    Args:
        plain: From :func:`student_config`.
        weights: The distilled model's, by name.
        meta: What MMEngine's checkpoints say of a training; some of it is kept.
        out: File to write; its folder is created.
        origin: What the weights are of, for errors.

    Returns:
        tuple[str, str]: Paths of the checkpoint and of the config.

    Raises:
        ValueError: If the weights are not of this config.
    """
    weights = {
        key: value
        for key, value in weights.items()
        if not key.startswith(DISTILLER_PREFIX)
    }
    _load_strictly(plain, weights, origin)
    meta = {
        key: meta[key]
        for key in ('dataset_meta', 'epoch', 'iter', 'experiment_name')
        if key in meta
    }
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    meta['cfg'] = plain.pretty_text
    save_checkpoint({'state_dict': weights, 'meta': meta}, out)
    config_path = osp.splitext(out)[0] + '.py'
    plain.dump(config_path)
    return out, config_path


def _check_out(checkpoint: str, out: str, config_path: str, plain: Config) -> None:
    if out == config_path or osp.isdir(out):
        raise ValueError(
            f'OUT is the checkpoint to write, for example student.pth, not {out}.'
        )
    if osp.exists(out):
        if osp.samefile(checkpoint, out):
            raise ValueError(
                f'OUT is the checkpoint itself ({out}). Name another file.'
            )
        if not _is_export(out, plain):
            raise ValueError(
                f'{out} is another file than an earlier export of this student, and '
                'would be overwritten. Name another OUT, or remove it.'
            )
    if osp.exists(config_path):
        with open(config_path, encoding='utf-8') as file:
            is_own = file.read() == plain.pretty_text
        if not is_own:
            raise ValueError(
                f"The student's config would overwrite {config_path}, which is another "
                'file. Name another OUT.'
            )


def _is_export(path: str, plain: Config) -> bool:
    """Whether a file is what :func:`export_student` writes for a config."""
    try:
        found = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        # Training checkpoints have a message hub, at least, besides.
        return set(found) == {'state_dict', 'meta'} and (
            found['meta'].get('cfg') == plain.pretty_text
        )
    except Exception:  # other files end in errors of many kinds
        return False


def _load_strictly(plain: Config, weights: dict, checkpoint: str) -> None:
    model = build_model(plain)
    misfits = summarize_misfits(find_misfits(model.state_dict(), weights))
    if misfits:
        raise ValueError(f'{checkpoint} was not trained with this config: {misfits}.')
    model.load_state_dict(weights, strict=True)
