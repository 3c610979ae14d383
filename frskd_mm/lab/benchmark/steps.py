"""Training steps that can be timed: a config's, and anybody else's."""

import logging
import time
import warnings
from collections import defaultdict
from copy import deepcopy
from functools import partial, wraps
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper, OptimWrapperDict, build_optim_wrapper
from mmengine.registry import HOOKS, DefaultScope

from frskd_mm.lab.peak import build_foreign_step
from frskd_mm.lab.trial import random_batch
from frskd_mm.utils.model import build_model, interval_of
from frskd_mm.utils.recorder import Recorder

#: Parts of a step in their order; 'total' comes beside them.
PHASES = ('data', 'forward', 'backward', 'optimiser')
#: By the methods of the data preprocessor and of optimisers; the rest is forward.
PHASE_OF = dict(
    data='data', backward='backward', step='optimiser', zero_grad='optimiser'
)
CHANNELS_LAST = 'frskd_mm.ChannelsLastHook'


class Workload(NamedTuple):
    """What every arm of a measurement is given."""

    batch_size: int
    #: Height and width.
    image_size: Tuple[int, int]


def silence() -> None:
    """Keep models from reporting how they are initialised."""
    MMLogger.get_instance('mmengine').setLevel(logging.ERROR)
    warnings.simplefilter('ignore')


def now() -> float:
    """Return the time in seconds, after all work of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class PhaseTimer(Recorder):
    """Sum up the seconds that methods take, within a ``with`` block."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seconds: Dict[str, float] = defaultdict(float)

    def _recording(self, name: str, method: Callable) -> Callable:
        @wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = now()
            output = method(*args, **kwargs)
            self.seconds[name] += now() - began
            return output

        return timed


class TrainingStep:
    """A step of MMEngine's training loop, ``model.train_step``.

    Model, optimiser, clipping, accumulation and mixed precision are built from
    the config as the runner builds them, and ``torch.compile`` and the
    channels-last layout are applied as it applies them. Hooks other than that of
    the layout are not run.

    The learning rate is 0: the optimiser does all its work, but the weights stay,
    so that every step computes the same and random labels make nothing diverge.

    With accumulated gradients a step is as many iterations as come to one update.
    What is measured of a self-teacher that runs on every k-th step is the mean of k
    steps, of which it runs in the first.

    Args:
        cfg: From :func:`frskd_mm.lab.benchmark.plan.configure`.
        workload: Batch and image size.
        num_classes: Labels are below it.
    """

    def __init__(self, cfg: Config, workload: Workload, num_classes: int) -> None:
        torch.manual_seed(0)
        self.scope = cfg.get('default_scope')
        message_hub = MessageHub.get_current_instance()
        for name, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
            message_hub.update_info(name, value)  # as a runner in its last epoch
        with DefaultScope.overwrite_default_scope(self.scope):
            model = revert_sync_batchnorm(build_model(cfg))
            model.init_weights()
            self.model = model.to(get_device()).train()
            for hook in cfg.get('custom_hooks') or []:
                if hook['type'] == CHANNELS_LAST:
                    if get_device() in HOOKS.build(hook).devices:
                        model.to(memory_format=torch.channels_last)
            self.optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group['lr'] = 0.0
        self.iterations = accumulated_iterations(cfg.optim_wrapper)
        self.images = self.iterations * workload.batch_size
        self.batch = random_batch(cfg, *workload, num_classes)
        self.interval = interval_of(model)
        self.compile_cfg = cfg.get('compile')
        self.compiled = False

    @property
    def optimisers(self) -> List[OptimWrapper]:
        """The optimisers: a model with a training step of its own may have several."""
        if isinstance(self.optim_wrapper, OptimWrapperDict):
            return list(self.optim_wrapper.values())
        return [self.optim_wrapper]

    def compile(self) -> None:
        """Compile the step if the config says so, as the runner does."""
        if self.compile_cfg:
            given = self.compile_cfg
            options = dict(given) if isinstance(given, dict) else {}
            target = options.pop('target', 'train_step')
            compiled = torch.compile(getattr(self.model, target), **options)
            setattr(self.model, target, compiled)
            self.compiled = True

    def __call__(self, batches: Optional[Sequence[Any]] = None) -> Dict[str, float]:
        """Run one step, or as many as the self-teacher's turn has.

        Args:
            batches: Of the data loader, one an iteration; by default the random
                one.

        Returns:
            dict[str, float]: Seconds a step, 'total' and those of ``PHASES``. A
            compiled step is one whole, so it has the total alone.
        """
        steps = []
        for number in range(self.interval):
            if self.interval > 1:
                # The runner's iteration says so in training.
                self.model.distiller.is_due = partial(bool, not number)
            given = batches
            if given is None:
                given = [self.fresh_batch() for _ in range(self.iterations)]
            elif number + 1 < self.interval:  # preprocessing writes into them
                given = deepcopy(given)
            steps.append(self._run_one(given))
        return {
            phase: sum(step[phase] for step in steps) / self.interval
            for phase in steps[0]
        }

    def _run_one(self, batches: Sequence[Any]) -> Dict[str, float]:
        timer = PhaseTimer({} if self.compiled else self._targets())
        with DefaultScope.overwrite_default_scope(self.scope), timer:
            began = now()
            for batch in batches:
                self.model.train_step(batch, self.optim_wrapper)
            total = now() - began
        if self.compiled:
            return dict(total=total)
        seconds = dict.fromkeys(PHASES, 0.0)
        for name, taken in timer.seconds.items():
            seconds[PHASE_OF[name.split()[0]]] += taken
        seconds['forward'] = total - sum(seconds.values())
        return dict(**seconds, total=total)

    def fresh_batch(self) -> Any:
        """Return the batch anew: preprocessing writes into the annotations."""
        return deepcopy(self.batch)

    def _targets(self) -> Dict[str, tuple]:
        targets: Dict[str, tuple] = dict(data=(self.model.data_preprocessor, 'forward'))
        for number, optimiser in enumerate(self.optimisers):
            for method in ('backward', 'step', 'zero_grad'):
                targets[f'{method} {number}'] = (optimiser, method)
        return targets


def accumulated_iterations(cfg: Dict[str, Any]) -> int:
    """Return after how many iterations all optimisers have made whole updates.

    Args:
        cfg: An ``optim_wrapper``, of one optimiser or, by name, of several.
    """
    if 'optimizer' in cfg:
        return cfg.get('accumulative_counts', 1)
    parts = [part for part in cfg.values() if isinstance(part, dict)]
    counts = [part.get('accumulative_counts', 1) for part in parts]
    return int(np.lcm.reduce([1, *counts]))


class ForeignStep:
    """A training step of other code, see :func:`build_foreign_step`.

    Args:
        name: ``module:function``.
        workload: Batch and image size.
        num_classes: Number of classes.
    """

    def __init__(self, name: str, workload: Workload, num_classes: int) -> None:
        torch.manual_seed(0)
        self.images = workload.batch_size
        self.step = build_foreign_step(name, *workload, num_classes)

    def __call__(self) -> Dict[str, float]:
        """Run one step; return its seconds as 'total'."""
        began = now()
        self.step()
        return dict(total=now() - began)
