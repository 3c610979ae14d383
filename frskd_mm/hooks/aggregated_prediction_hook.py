"""Test-time prediction from four rotations."""

from functools import partial

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import check_arguments
from frskd_mm.utils.model import unwrap
from frskd_mm.utils.recorder import is_shadow, shadow, unshadow


@HOOKS.register_module()
class AggregatedPredictionHook(Hook):
    """Validate and test with the joint head's aggregated prediction.

    For models that were trained with ``SLA`` or ``FRSKDSLA``. It costs four
    passes an image and needs the training checkpoint: the joint head belongs to
    the distiller, which an exported student does not have. Without this hook
    the student predicts from the image as it is. While the model predicts with its
    self-teacher, as ``frskd test --self-teacher`` asks, the hook does nothing.
    """

    @check_arguments()
    def __init__(self) -> None:
        self._is_shadowing = False

    def before_val(self, runner: Runner) -> None:
        """Shadow ``predict``.

        Raises:
            TypeError: If the model has no joint head.
        """
        model = unwrap(runner.model)
        joint_head = getattr(getattr(model, 'distiller', None), 'joint_head', None)
        if joint_head is None:
            raise TypeError(
                'AggregatedPredictionHook needs a model distilled by SLA or FRSKDSLA, '
                f'got a {type(model).__name__} without a joint head. Remove the hook '
                'from custom_hooks.'
            )
        if is_shadow(vars(model).get('predict')):
            print_log(
                'AggregatedPredictionHook: the self-teacher predicts, from the image '
                'as it is.',
                logger='current',
            )
            return
        shadow(model, 'predict', partial(joint_head.predict, model))
        self._is_shadowing = True

    def after_val(self, runner: Runner) -> None:
        """Give the student's own ``predict`` back."""
        if self._is_shadowing:
            unshadow(unwrap(runner.model), 'predict')
            self._is_shadowing = False

    def before_test(self, runner: Runner) -> None:
        """Shadow ``predict``, as for validation."""
        self.before_val(runner)

    def after_test(self, runner: Runner) -> None:
        """Give the student's own ``predict`` back."""
        self.after_val(runner)
