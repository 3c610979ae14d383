"""What happens when a loss or a gradient is NaN or infinite."""

import math
from functools import wraps
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import Tensor

from frskd_mm.registry import HOOKS
from frskd_mm.utils.arguments import at_least, check_arguments
from frskd_mm.utils.model import unwrap
from frskd_mm.utils.recorder import is_shadow, shadow, unshadow

from .safe_checkpoint_hook import runner_device

RULES = ('stop', 'skip', 'go on')
MAX_IMAGES = 8


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stop, or skip a step, whose terms or gradients are NaN or infinite.

    ``frskd_mm.engine`` adds it with the config's ``non_finite``. Terms are checked
    before the backward pass and gradients before the optimiser's step, so a step
    that is refused has not changed a weight. The term, the iteration and the
    images of the batch are named. All processes decide alike, at the cost of two
    small collective calls a step; a single process only reads the gradients.

    With mixed precision the gradients are the ``GradScaler``'s to check: it
    expects them to overflow now and then, skips such steps by itself and lowers its
    scale, which this hook leaves as it is.

    Args:
        rule (str): 'stop' ends the run with an error. 'skip' leaves the step out
            and gives buffers, such as the statistics of norms, the values from
            before it, which are copied each step for that; after ``patience``
            steps in a row it ends the run. 'go on' is what MMEngine does, with a
            warning. Defaults to 'stop'.
        patience (int): Defaults to 10.

    Raises:
        ValueError: If ``rule`` is another one.
    """

    # After the hooks that change batches or the model, before those that save.
    priority = 'NORMAL'

    @check_arguments(patience=at_least(1))
    def __init__(self, rule: str = 'stop', patience: int = 10) -> None:
        if rule not in RULES:
            raise ValueError(
                f'non_finite is one of {", ".join(map(repr, RULES))}, not {rule!r}. '
                'Correct it in the config.'
            )
        self.rule, self.patience = rule, patience
        self.skipped = self.in_a_row = 0
        self._found: List[str] = []
        self._batch: Any = None
        self._terms: Dict[str, Tensor] = {}
        self._buffers: List[Tensor] = []

    def before_train(self, runner: Runner) -> None:
        """Look into the model's losses and the optimiser's steps."""
        model, wrapper = unwrap(runner.model), runner.optim_wrapper
        is_compiled = bool(runner.cfg.get('compile'))
        # A compiled step leaves its graph for these, as it does to step.
        eager = torch.compiler.disable if is_compiled else (lambda f: f)
        if not isinstance(wrapper, OptimWrapper):  # several optimisers
            return
        if not is_compiled:  # methods call it within their losses
            shadow(model, 'parse_losses', self._parse_losses(model.parse_losses))
        shadow(wrapper, 'update_params', eager(self._update(runner, wrapper)))
        if not isinstance(wrapper, AmpOptimWrapper):
            shadow(wrapper, 'step', eager(self._step(runner, wrapper.step)))

    def after_train(self, runner: Runner) -> None:
        """Say how many steps were skipped; take everything back."""
        model, wrapper = unwrap(runner.model), runner.optim_wrapper
        for owner, name in (
            (model, 'parse_losses'),
            (wrapper, 'update_params'),
            (wrapper, 'step'),
        ):
            if is_shadow(vars(owner).get(name)):
                unshadow(owner, name)
        if self.skipped:
            runner.logger.warning(
                f'{self.skipped} steps were skipped: their terms or gradients were '
                'not finite.'
            )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Keep what is needed if the step has to be taken back."""
        self._batch, self._found = data_batch, []
        if self.rule == 'skip':
            buffers = list(unwrap(runner.model).buffers())
            if [b.shape for b in buffers] != [b.shape for b in self._buffers]:
                self._buffers = [buffer.detach().clone() for buffer in buffers]
            else:
                for kept, buffer in zip(self._buffers, buffers):
                    kept.copy_(buffer)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Optional[Dict[str, Any]] = None,
    ) -> None:
        """Forget the batch; end the run after too many skipped steps in a row."""
        self._batch = None
        self.in_a_row = self.in_a_row + 1 if self._found else 0
        if self.rule == 'skip' and self.in_a_row >= self.patience:
            raise FloatingPointError(
                f'{self.in_a_row} steps in a row were not finite; skipping does not '
                'help. Lower the learning rate, clip the gradients with '
                'optim_wrapper.clip_grad=dict(max_norm=...), or look at the terms '
                'that the log names.'
            )

    def _parse_losses(self, original: Any) -> Any:
        def parse_losses(losses: Dict[str, Any]) -> Any:
            total, logged = original(losses)
            # An accuracy or alpha may be NaN: it is not optimised. The last call
            # before the step counts; methods call it for parts.
            terms = {n: v for n, v in logged.items() if 'loss' in n and n != 'loss'}
            self._terms = terms or {'loss': total}
            return total, logged

        return parse_losses

    def _update(self, runner: Runner, wrapper: OptimWrapper) -> Any:
        original = wrapper.update_params

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            found = self._check(runner, self._terms or {'loss': loss})
            self._terms = {}
            if not (found and self.rule == 'skip'):
                original(loss, *args, **kwargs)
                return
            self._take_back(runner)
            # As without this part of an accumulated gradient.
            wrapper._inner_count += 1
            if wrapper._accumulative_counts > 1 and wrapper.should_update():
                groups = wrapper.param_groups
                # A GradScaler refuses a step to which no part gave a gradient.
                if any(p.grad is not None for g in groups for p in g['params']):
                    wrapper.step()
                wrapper.zero_grad()

        return update_params

    def _step(self, runner: Runner, original: Any) -> Any:
        @wraps(original)  # with the marks that schedulers look for
        def step(**kwargs: Any) -> None:
            parameters = unwrap(runner.model).named_parameters()
            gradients = {
                f'the gradient of {n}': p.grad.detach()
                for n, p in parameters
                if p.grad is not None and p.grad.numel()
            }
            if self._check(runner, gradients) and self.rule == 'skip':
                self._take_back(runner)
                return
            original(**kwargs)

        return step

    def _take_back(self, runner: Runner) -> None:
        self.skipped += 1
        with torch.no_grad():
            for buffer, kept in zip(unwrap(runner.model).buffers(), self._buffers):
                buffer.copy_(kept)

    def _check(self, runner: Runner, tensors: Dict[str, Tensor]) -> bool:
        """Tell whether a value of any process is not finite, and act on it."""
        # The greatest of the absolute values: NaN if one is. A process whose part of
        # the weights is empty has none, and must take part all the same.
        norms: Sequence[Tensor] = [torch.zeros((), device=runner_device(runner))]
        if tensors:
            given = [tensor.detach() for tensor in tensors.values()]
            norms = torch._foreach_norm(given, math.inf)
        values = torch.stack([norm.float() for norm in norms])
        found = (~values.isfinite()).any().to(torch.int)
        all_reduce(found, op='max')
        if not found:
            return False
        names = [n for n, v in zip(tensors, values.tolist()) if not math.isfinite(v)]
        shown = ', '.join(names[:3]) + (', ...' if len(names) > 3 else '')
        self._found = names or ['that of another process']
        text = (
            f'Iteration {runner.iter + 1}: {shown or "a term of another process"} '
            'is NaN or infinite.'
        )
        if names:
            text += f' The images of the batch: {describe_images(self._batch)}.'
        if self.rule == 'stop':
            raise FloatingPointError(
                f'{text} The weights are those from before this step, and the '
                'checkpoints are as they were. Look at the images; lower the learning '
                'rate or clip the gradients, with optim_wrapper.clip_grad='
                "dict(max_norm=...); or set non_finite='skip' in the config to leave "
                "such steps out, 'go on' to take them."
            )
        ending = ' The step is skipped.' if self.rule == 'skip' else ''
        runner.logger.warning(text + ending)
        return True


def describe_images(batch: Any) -> str:
    """Name the images of a batch by path, else by number in the data set."""
    names = list(dict.fromkeys(map(_name_of, _samples_of(batch))))
    if not names:
        return 'the data loader gives no data_samples that name them'
    more = f' and {len(names) - MAX_IMAGES} more' if len(names) > MAX_IMAGES else ''
    return ', '.join(names[:MAX_IMAGES]) + more


def _samples_of(batch: Any) -> Iterator[Any]:
    """Yield the data elements of a nested batch."""
    if hasattr(batch, 'metainfo'):
        yield batch
    elif isinstance(batch, dict):
        yield from _samples_of(batch.get('data_samples'))
    elif isinstance(batch, Sequence) and not isinstance(batch, str):
        for part in batch:
            yield from _samples_of(part)


def _name_of(sample: Any) -> str:
    for key in ('img_path', 'sample_idx', 'img_id'):
        if sample.get(key) is not None:
            value = sample.get(key)
            return str(value) if key == 'img_path' else f'{key} {value}'
    return 'one without img_path'
