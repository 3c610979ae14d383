"""Figures for files, without a display."""

from typing import TYPE_CHECKING, Any

import numpy as np

from frskd_mm.utils.optional import missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def as_label(text: str) -> str:
    """Return text that matplotlib draws as it is.

    It takes what stands between two dollars for a formula, and leaves names that
    begin with an underscore out of legends.
    """
    return (' ' if text.startswith('_') else '') + text.replace('$', r'\$')


def new_figure(**kwargs: Any) -> 'Figure':
    """Return an empty figure that touches no display and no global state.

    Args:
        **kwargs: Arguments of ``matplotlib.figure.Figure``.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package('matplotlib', 'Drawing') from error
    return Figure(layout='constrained', **kwargs)


def as_image(figure: 'Figure') -> np.ndarray:
    """Return what a figure shows, (H, W, 3) uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
