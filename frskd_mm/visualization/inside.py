"""One picture of what a distilled model makes of an image."""

from copy import deepcopy
from typing import Any, Dict, List, NamedTuple, Tuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from torch import Tensor

from .attention_maps import UNIT, attention_maps
from .figure import as_image, as_label, new_figure
from .predictions import draw_disagreement, draw_prediction, has_truth

#: Maps with fewer positions are a handful of blocks, which say nothing of places.
MIN_POSITIONS = 16
#: Columns of the picture: the image, truth, two predictions, disagreement.
COLUMNS = 5


class Inside(NamedTuple):
    """What student and self-teacher make of one image."""

    student: Any
    teacher: Any
    #: Per level the attention maps (H_i, W_i) of both.
    maps: List[Tuple[Tensor, Tensor]]


def check_has_inside(model: BaseModel) -> None:
    """Require a self-teacher that refines maps.

    Raises:
        TypeError: If there is none.
    """
    distiller = getattr(model, 'distiller', None)
    if not hasattr(distiller, 'self_teacher') or not hasattr(distiller, 'predict'):
        raise TypeError(
            f'{type(distiller or model).__name__} has no self-teacher that refines '
            'maps. Pictures of attention are drawn of FRSKD and its relatives '
            '(--method frskd, frskd-attached, auxiliary, label-guided).'
        )


@torch.no_grad()
def look_inside(model: BaseModel, packed: Dict[str, Any]) -> Inside:
    """Predict with student and self-teacher, and take their attention maps.

    Args:
        model: Distilled model with a self-teacher; its mode is given back.
        packed: What the data set's pipeline gives.
    """
    check_has_inside(model)
    training = model.training
    model.eval()
    try:
        (student,) = model.test_step(pseudo_collate([deepcopy(packed)]))
        with model.as_self_teacher():
            (teacher,) = model.test_step(pseudo_collate([deepcopy(packed)]))
        batch = model.data_preprocessor(pseudo_collate([deepcopy(packed)]), False)
        maps = attention_maps(model, batch['inputs'])
    finally:
        model.train(training)
    return Inside(student.cpu(), teacher.cpu(), [(s[0], t[0]) for s, t in maps])


def readable_levels(
    maps: List[Tuple[Tensor, Tensor]],
) -> Tuple[List[int], List[int]]:
    """Return the levels that are drawn, and those too coarse to read.

    The finest is always drawn.
    """
    fine = [i for i, (own, _) in enumerate(maps) if own.numel() >= MIN_POSITIONS]
    fine = fine or [0]
    return fine, [i for i in range(len(maps)) if i not in fine]


def draw_inside(
    model: BaseModel,
    seen: np.ndarray,
    original: np.ndarray,
    packed: Dict[str, Any],
    title: str,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw predictions, disagreement and attention maps of one image.

    Args:
        model: Distilled model with a self-teacher and ``dataset_meta``.
        seen: The image as the model sees it, (H, W, 3) uint8 RGB.
        original: The one that predictions refer to.
        packed: What the pipeline gave for it.
        title: Heading.
        score_thr: Boxes that score less are left out.

    Returns:
        np.ndarray: The picture (H, W, 3) uint8 RGB.

    Raises:
        ImportError: If matplotlib is not installed.
        TypeError: If the model has no self-teacher.
    """
    inside = look_inside(model, packed)
    differs, verdict = draw_disagreement(
        model, original, inside.student, inside.teacher, score_thr
    )
    panels = [('image', original)]
    if has_truth(packed['data_samples']):
        sample = packed['data_samples'].cpu()
        truth = inside.student if 'gt_sem_seg' in inside.student else sample
        panels.append(('truth', draw_prediction(model, original, truth, truth=True)))
    for name, found in (('student', inside.student), ('self-teacher', inside.teacher)):
        panels.append((name, draw_prediction(model, original, found, score_thr)))
    panels.append(('disagreement', differs))
    return _render(seen, panels, inside.maps, title, verdict)


def _render(
    seen: np.ndarray,
    panels: List[Tuple[str, np.ndarray]],
    maps: List[Tuple[Tensor, Tensor]],
    title: str,
    verdict: str,
) -> np.ndarray:
    levels, coarse = readable_levels(maps)
    columns = max(COLUMNS, len(levels))
    figure = new_figure(figsize=(2.3 * columns + 0.8, 8.4), dpi=100)
    grid = figure.subplots(3, columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.set_axis_off()
    for axes, (name, image) in zip(grid[0], panels):
        axes.imshow(image)
        axes.set_title(name, fontsize=10)
    shown = torch.cat([m.flatten() for level in levels for m in maps[level]])
    brightest = float(np.quantile(shown, 0.995))
    height, width = seen.shape[:2]
    overlay: Any = None
    for row, owner in enumerate(('student', 'self-teacher')):
        for axes, level in zip(grid[row + 1], levels):
            rows, cols = maps[level][row].shape
            axes.imshow(seen.mean(axis=2), cmap='gray', vmin=0, vmax=255)
            overlay = axes.imshow(
                maps[level][row],
                cmap='turbo',
                vmin=0,
                vmax=brightest,
                alpha=0.6,
                extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            )
            axes.set_title(f'{owner}, level {level + 1}: {rows}x{cols}', fontsize=9)
    figure.colorbar(overlay, ax=grid[1:], label=UNIT, shrink=0.9, extend='max')
    note = verdict
    if coarse:
        sizes = ', '.join(
            f'level {i + 1} ({maps[i][0].shape[0]}x{maps[i][0].shape[1]})'
            for i in coarse
        )
        note += f'\nToo coarse to read, left out: {sizes}'
    figure.suptitle(as_label(f'{title}\n{note}'), fontsize=10)
    return as_image(figure)
