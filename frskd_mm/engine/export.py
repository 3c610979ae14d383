"""Taking the student out of a distilled checkpoint."""

import os
import os.path as osp
from typing import Any, Dict, Tuple

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.runner import save_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from frskd_mm.models.distilled import DISTILLER_PREFIX
from frskd_mm.utils.checkpoint import (
    find_misfits,
    select_weights,
    summarize_misfits,
    weights_of,
)
from frskd_mm.utils.checkpoint_files import write_files_whole
from frskd_mm.utils.checkpoint_loading import checkpoints_as_data
from frskd_mm.utils.model import build_model

from .config import check_checkpoint_file
from .wrap import student_config


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
    plain = deployed_config(cfg)
    config_path = osp.splitext(out)[0] + '.py'
    _check_out(checkpoint, out, config_path, plain)
    with checkpoints_as_data(cfg):
        loaded = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    meta = loaded.get('meta', {})
    return write_student(plain, weights_of(loaded), meta, out, origin=checkpoint)


def deployed_config(cfg: Config) -> Config:
    """Return the student's config, without what was the training's alone.

    That is its folder, in which another training would overwrite it, and what
    it began from.
    """
    plain = student_config(cfg)
    for key in ('work_dir', 'load_from', 'resume', 'launcher', 'trust_checkpoint'):
        plain._cfg_dict.pop(key, None)
    return plain


def write_student(
    plain: Config, weights: Dict[str, Any], meta: Dict[str, Any], out: str, origin: str
) -> Tuple[str, str]:
    """Write a student's checkpoint, and its config beside it.

    Args:
        plain: From :func:`deployed_config`.
        weights: The distilled model's, by name.
        meta: What MMEngine's checkpoints say of a training; some of it is kept.
        out: File to write; its folder is created.
        origin: What the weights are of, for errors.

    Returns:
        tuple[str, str]: Paths of the checkpoint and of the config.

    Raises:
        ValueError: If the weights are not of this config.
    """
    weights = student_weights(weights)
    load_student(plain, weights, origin)
    meta = {
        key: meta[key]
        for key in ('dataset_meta', 'epoch', 'iter', 'experiment_name')
        if key in meta
    }
    os.makedirs(osp.dirname(osp.abspath(out)), exist_ok=True)
    meta['cfg'] = plain.pretty_text
    write_files_whole()
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
        if osp.exists(checkpoint) and osp.samefile(checkpoint, out):  # or a URL
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
        with checkpoints_as_data():
            found = CheckpointLoader.load_checkpoint(path, map_location='cpu')
        # Training checkpoints have a message hub, at least, besides.
        return set(found) == {'state_dict', 'meta'} and (
            found['meta'].get('cfg') == plain.pretty_text
        )
    except Exception:  # other files end in errors of many kinds
        return False


def student_weights(weights: Dict[str, Any]) -> Dict[str, Any]:
    """Return the student's weights of those of a distilled model, or of its own."""
    return select_weights(weights, lambda name: not name.startswith(DISTILLER_PREFIX))


def load_student(plain: Config, weights: Dict[str, Any], origin: str) -> BaseModel:
    """Build a plain student with weights that have to fit strictly.

    Args:
        plain: From :func:`deployed_config`.
        weights: From :func:`student_weights`.
        origin: What the weights are of, for errors.

    Raises:
        ValueError: If the weights are not of this config.
    """
    model = build_model(plain)
    misfits = summarize_misfits(find_misfits(model.state_dict(), weights))
    if misfits:
        raise ValueError(f'{origin} was not trained with this config: {misfits}.')
    # All names and shapes fit. Loading strictly would refuse what a model leaves out by
    # a hook of its own, as Swin v2 does with tables that it computes.
    model.load_state_dict(weights, strict=False)
    return model
