"""Look behind the last ReLU of a map, without changing the model."""

from functools import wraps
from typing import Any, Callable, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .recorder import Replayer

RELUS = frozenset((F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_))


class ReLUInputs(TorchFunctionMode):
    """Remember, within a ``with`` block, what went into each ReLU.

    Backbones return post-ReLU maps. Overhaul distillation compares what was
    before the ReLU, which this finds for any backbone, by the identity of the
    map: ReLUs of modules and functions, in place or not, are all seen.

    What went in is held as long as what came out. Autograd holds that of most ReLUs,
    so a copy of nearly every input is there at the end of a pass with gradients, and
    only then is it known which of them are asked for. Without gradients few are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._inputs = WeakTensorKeyDictionary()

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in RELUS:
            return func(*args, **kwargs)
        before = kwargs['input'] if 'input' in kwargs else args[0]
        before = before.clone()  # the ReLU may overwrite it
        output = func(*args, **kwargs)
        self._inputs[output] = before
        return output

    def of(self, feats: Union[Tensor, Sequence[Tensor]]) -> Any:
        """Return the maps before their ReLU; what no ReLU made as it is.

        Raises:
            RuntimeError: If a map has a gradient, but not what was before its ReLU.
        """
        if isinstance(feats, (list, tuple)):
            return tuple(self.of(feat) for feat in feats)
        if not isinstance(feats, Tensor):
            return feats  # the size of a map, beside its tokens
        before = self._inputs.get(feats, feats)
        if feats.requires_grad and not before.requires_grad:
            raise RuntimeError(
                'The maps before their ReLU have no gradient, since reentrant '
                'checkpointing computes them apart. Remove activation_checkpointing '
                'of the part whose maps are compared, or compare maps after their '
                "ReLU: feature_loss=dict(type='frskd_mm.AttentionTransferLoss')."
            )
        return before


class PreactRecorder(Replayer):
    """Record also, as 'preacts', the maps 'feats' before their last ReLU.

    Those of inner modules, 'feats.NAME', become 'preacts.NAME'.
    """

    def _recording(self, name: str, method: Callable) -> Callable:
        kind, dot, rest = name.partition('.')
        if kind != 'feats':
            return super()._recording(name, method)

        @wraps(method)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            with ReLUInputs() as inputs:
                output = method(*args, **kwargs)
            self.outputs[name].append(output)
            self.outputs[f'preacts{dot}{rest}'].append(inputs.of(output))
            return output

        return recorded
