"""A picture of a distilled model, drawn from the built model's own parts."""

from typing import Any, Tuple

import torch
from mmengine.model import BaseModel
from torch import Tensor

from .figure import new_figure

STUDENT, TEACHER, TERM, INPUT = '#4878b0', '#d1793b', '#7a5195', '#8c8c8c'
# x of the columns: image, F, L, P, T, heads, terms.
IMAGE_X, F_X, L_X, P_X, T_X, HEAD_X, TERM_X = 0.5, 2.5, 4.5, 5.5, 7.2, 9.8, 11.9
HALF_HEIGHT = 0.27


def draw_architecture(model: BaseModel, image: Tensor, path: str) -> None:
    """Draw the student, its self-teacher and the four terms of FRSKD.

    Levels, shapes, class names, weights and the dashed lines, where gradients
    stop, are read from the model and one forward pass.

    Args:
        model (BaseModel): Distilled model whose distiller is ``FRSKD``.
        image (Tensor): Preprocessed image (1, 3, H, W).
        path (str): Picture to write.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    distiller = model.distiller
    self_teacher = distiller.self_teacher
    model.eval()
    with torch.no_grad():
        feats = distiller.task.extract_feats(model, distiller.levels, image)
        refined = self_teacher.refine(feats)

    bottom = -1.0  # row of the student's head; levels are rows 0 to n - 1
    last_row = float(len(feats) - 1)
    figure = new_figure(figsize=(12, 2.0 + 0.64 * len(feats)))
    axes = figure.subplots()
    axes.set(xlim=(-0.3, 15.0), ylim=(bottom - 1.0, last_row + 1.2))
    axes.axis('off')
    source = distiller.task.source_module(model, distiller.source)
    for x, title in (
        (IMAGE_X, 'image'),
        (F_X, f'{type(source).__name__}\nfeatures'),
        (L_X, 'lateral'),
        (P_X, 'top-down'),
        (T_X, f'{type(self_teacher.neck).__name__}\nbottom-up, refined'),
        (HEAD_X, 'heads'),
        (TERM_X, 'terms of the loss'),
    ):
        align = 'left' if x == TERM_X else 'center'
        axes.text(x, last_row + 0.85, title, ha=align, va='center', weight='bold')

    _box(axes, IMAGE_X, last_row, 0.5, _shape(image), INPUT)
    _arrow(axes, (IMAGE_X + 0.5, last_row), (F_X - 0.9, last_row), STUDENT)
    for level, (feat, t) in enumerate(zip(feats, refined)):
        y = last_row - level
        _box(axes, F_X, y, 0.9, f'F{level + 1}  {_shape(feat)}', STUDENT)
        _box(axes, L_X, y, 0.3, f'L{level + 1}', TEACHER)
        _box(axes, P_X, y, 0.3, f'P{level + 1}', TEACHER)
        _box(axes, T_X, y, 0.95, f'T{level + 1}  {_shape(t)}', TEACHER)
        _arrow(
            axes, (F_X + 0.9, y), (L_X - 0.3, y), TEACHER, stops=distiller.detach_inputs
        )
        _arrow(axes, (L_X + 0.3, y), (P_X - 0.3, y), TEACHER)
        _arrow(axes, (P_X + 0.3, y), (T_X - 0.95, y), TEACHER)
        if level:
            above, below = y + 1 - HALF_HEIGHT, y + HALF_HEIGHT
            _arrow(axes, (F_X, above), (F_X, below), STUDENT)
            _arrow(axes, (P_X, below), (P_X, above), TEACHER)
            _arrow(axes, (T_X, above), (T_X, below), TEACHER)

    names = sorted(distiller.task.output_targets(model))
    head = type(distiller.task.output_targets(model)[names[0]][0]).__name__
    _box(axes, HEAD_X, 0, 1.25, f'twin {head}  z_t', TEACHER)
    _box(axes, HEAD_X, bottom, 1.25, f'{head}  z_s', STUDENT)
    _arrow(axes, (T_X + 0.95, 0), (HEAD_X - 1.25, 0), TEACHER)
    _arrow(axes, (F_X, -HALF_HEIGHT), (F_X, bottom), STUDENT, head=False)
    _arrow(axes, (F_X, bottom), (HEAD_X - 1.25, bottom), STUDENT)

    alpha, beta = distiller.soft_label.loss_weight, distiller.feature_loss.loss_weight
    soft_label, feature_loss = distiller.soft_label, distiller.feature_loss
    middle = 0.5 * bottom
    for y, term in (
        (last_row, f'beta {beta:g} · {type(feature_loss).__name__}(F, T)'),
        (0.0, 'task loss of z_t'),
        (middle, f'alpha {alpha:g} · {type(soft_label).__name__}(z_s, z_t)'),
        (bottom, 'task loss of z_s'),
    ):
        axes.text(TERM_X, y, term, color=TERM, va='center')
    _arrow(axes, (T_X + 0.95, last_row), (TERM_X - 0.1, last_row), TERM, stops=True)
    for y in (0.0, bottom):
        _arrow(axes, (HEAD_X + 1.25, y), (TERM_X - 0.1, y), TERM)
    _arrow(axes, (HEAD_X + 0.5, -HALF_HEIGHT), (TERM_X - 0.1, middle), TERM, stops=True)
    axes.text(
        -0.3,
        bottom - 0.75,
        f'Blue: {model.student_class.__name__}, the student, all that is deployed. '
        'Orange: the self-teacher, there during training only. Dashed: no gradient '
        'flows back.',
        va='center',
    )
    figure.savefig(path, dpi=100, bbox_inches='tight')


def _shape(feat: Tensor) -> str:
    return '×'.join(map(str, feat.shape[1:]))


def _box(
    axes: Any, x: float, y: float, half_width: float, text: str, color: str
) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (x - half_width, y - HALF_HEIGHT),
            2 * half_width,
            2 * HALF_HEIGHT,
            boxstyle='round,pad=0,rounding_size=0.08',
            facecolor=color,
            edgecolor='none',
        )
    )
    axes.text(x, y, text, color='white', ha='center', va='center')


def _arrow(
    axes: Any,
    start: Tuple[float, float],
    end: Tuple[float, float],
    color: str,
    stops: bool = False,
    head: bool = True,
) -> None:
    axes.annotate(
        '',
        xy=end,
        xytext=start,
        arrowprops=dict(
            arrowstyle='-|>' if head else '-',
            color=color,
            linestyle='--' if stops else '-',
            shrinkA=0,
            shrinkB=0,
            linewidth=1.4,
        ),
    )
