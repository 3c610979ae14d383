"""Pictures of student and self-teacher while they train."""

from typing import Any, Optional, Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.visualization import Visualizer

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import at_least, check_arguments
from frskd_mm.utils.model import unwrap
from frskd_mm.utils.optional import require_packages
from frskd_mm.utils.random import isolated_rng
from frskd_mm.visualization.images import Seen, is_bgr, pixels
from frskd_mm.visualization.inside import check_has_inside, draw_inside


@HOOKS.register_module()
class InsideHook(Hook):
    """Draw what student and self-teacher make of some images, after validations.

    Predictions, where they disagree, and attention maps per level go to all backends
    of the config's visualizer: files (``LocalVisBackend``), ``TensorboardVisBackend``,
    ``WandbVisBackend``, ``MLflowVisBackend``. Images are those of the validation set;
    no random numbers are drawn.

    Args:
        indices (Sequence[int], optional): Which images of the validation set.
            By default ``num_images``, spread over it.
        num_images (int): How many. Defaults to 2.
        interval (int): Validations from one drawing to the next. Defaults to 1.
        score_thr (float): Boxes that score less are left out. Defaults to 0.3.

    Raises:
        TypeError: When training begins, if the model has no self-teacher.
        ImportError: Then, if matplotlib is not installed.
        ValueError: When images are drawn, if the validation set lacks one.
    """

    # After hooks that exchange the student's own way to predict.
    priority = 'LOWEST'

    @check_arguments(num_images=at_least(1), interval=at_least(1))
    def __init__(
        self,
        indices: Optional[Sequence[int]] = None,
        num_images: int = 2,
        interval: int = 1,
        score_thr: float = 0.3,
    ) -> None:
        self.indices = indices
        self.num_images = num_images
        self.interval = interval
        self.score_thr = score_thr
        self._validations = 0

    def before_train(self, runner: Runner) -> None:
        """Refuse models of which there is nothing to draw."""
        require_packages('InsideHook', matplotlib='matplotlib')
        check_has_inside(unwrap(runner.model))

    def after_val(self, runner: Runner) -> None:
        """Draw."""
        self._validations += 1
        if self._validations % self.interval or runner.rank:
            return
        model = unwrap(runner.model)
        loader = runner.val_dataloader
        model.dataset_meta = getattr(loader.dataset, 'metainfo', {})
        by_iter = isinstance(runner._train_loop, IterBasedTrainLoop)
        step = runner.iter if by_iter else runner.epoch
        for index in self._choose(len(loader.dataset)):
            with isolated_rng(), DefaultScope.overwrite_default_scope(
                runner.default_scope.scope_name
            ):
                packed = loader.dataset[index]
                drawn = self._draw(model, packed, index, loader.dataset, step)
            hand_on(runner.visualizer, f'inside_{index}', drawn, step)

    def _choose(self, size: int) -> Sequence[int]:
        if self.indices is None:
            spread = np.linspace(0, size - 1, min(self.num_images, size))
            return spread.astype(int).tolist()
        for index in self.indices:
            if not 0 <= index < size:
                raise ValueError(
                    f'The validation set has images 0 to {size - 1}, not {index}: '
                    'change indices of InsideHook.'
                )
        return self.indices

    def _draw(
        self, model: Any, packed: dict, index: int, dataset: Any, step: int
    ) -> np.ndarray:
        seen = Seen(packed, f'validation image {index}')
        steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', [])
        loads = any(type(part).__name__ == 'LoadImageFromFile' for part in steps)
        return draw_inside(
            model,
            *pixels(seen, is_bgr(model, loads)),
            packed,
            title=f'{seen.name}, step {step}',
            score_thr=self.score_thr,
        )


def hand_on(visualizer: Visualizer, name: str, image: np.ndarray, step: int) -> None:
    """Give a picture to all backends of a visualizer.

    MLflow takes the name for that of a file, of which it needs the ending, and keeps
    one file a name.

    Args:
        visualizer: The runner's.
        name: The picture's.
        image: (H, W, 3) uint8 RGB.
        step: Epoch or iteration.
    """
    for key in visualizer._vis_backends:
        backend = visualizer.get_backend(key)
        is_mlflow = type(backend).__name__ == 'MLflowVisBackend'
        backend.add_image(f'{name}_{step}.png' if is_mlflow else name, image, step)
