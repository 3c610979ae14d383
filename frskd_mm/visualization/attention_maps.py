"""Pictures of where the student and its self-teacher look."""

import math
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.model import BaseModel
from torch import Tensor

from frskd_mm.models.losses.attention_transfer_loss import attention_map

from .figure import new_figure

UNIT = 'attention, relative to looking everywhere alike'


@torch.no_grad()
def attention_maps(model: BaseModel, inputs: Tensor) -> List[Tuple[Tensor, Tensor]]:
    """Compute the maps that attention transfer compares.

    Args:
        model: Distilled model whose distiller is ``FRSKD``; put in eval mode.
        inputs: Preprocessed images (N, 3, H, W).

    Returns:
        list[tuple[Tensor, Tensor]]: Per level the student's and the
        self-teacher's maps (N, H_i, W_i), scaled so that a map that is the same
        everywhere is 1.
    """
    distiller = model.distiller
    model.eval()
    feats = distiller.task.extract_feats(model, distiller.levels, inputs)
    refined = distiller.self_teacher.refine(feats)
    return [(_relative(f), _relative(t)) for f, t in zip(feats, refined)]


def _relative(feat: Tensor) -> Tensor:
    height, width = feat.shape[-2:]
    flat = attention_map(feat) * math.sqrt(height * width)
    return flat.view(-1, height, width).cpu()


def draw_attention_maps(
    images: Sequence[np.ndarray],
    maps: Sequence[Tuple[Tensor, Tensor]],
    title: str,
    path: str,
) -> None:
    """Draw each image, and the maps of every level laid over it.

    All maps share one colour scale.

    Args:
        images: N images (H, W, 3) uint8 RGB.
        maps: What :func:`attention_maps` gives for them.
        title: Heading.
        path: PNG to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    columns: List[Tuple[str, str, Optional[Tensor]]] = [('image', '', None)]
    for level, pair in enumerate(maps, start=1):
        size = f'level {level}: {pair[0].shape[-2]}x{pair[0].shape[-1]}'
        columns += [('student', size, pair[0]), ('self-teacher', size, pair[1])]
    brightest = np.quantile(torch.cat([m.flatten() for p in maps for m in p]), 0.995)
    figure = new_figure(figsize=(1.5 * len(columns) + 0.8, 1.5 * len(images) + 1.1))
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for row, image in zip(range(len(images)), images):
        height, width = image.shape[:2]
        for axes, (owner, size, stack) in zip(grid[row], columns):
            axes.set(xticks=[], yticks=[])
            if row == 0:
                axes.set_title(f'{owner}\n{size}', fontsize=9)
            if stack is None:
                axes.imshow(image)
                continue
            axes.imshow(image.mean(axis=2), cmap='gray', vmin=0, vmax=255)
            overlay = axes.imshow(
                stack[row],
                cmap='turbo',
                vmin=0,
                vmax=brightest,
                alpha=0.6,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )
    figure.colorbar(overlay, ax=grid, label=UNIT, shrink=0.9, aspect=40, extend='max')
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
