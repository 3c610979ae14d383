"""Record what methods of a model return, without changing the model."""

from collections import defaultdict
from functools import wraps
from types import MethodType
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Tuple

from torch import nn

from .compiling import is_compiling

Target = Tuple[Any, str]


class Recorder:
    """Shadow methods on their instances for the length of a ``with`` block.

    A forward hook fires on ``module(x)`` only, while mmseg's decode heads are
    run as ``module.forward(x)``. Shadowing the method on the instance catches
    both, and methods of plain objects besides.

    ``torch.compile`` traces it without a graph break. It has to see the forward
    of a module that is called as ``module(x)`` on the instance beforehand, see
    :func:`bind_forward`.

    Args:
        targets (Mapping[str, tuple[object, str]]): Name of the record ->
            (object, method name).

    Example:
        >>> with Recorder({'feats': (model.backbone, 'forward')}) as record:
        ...     losses = model.loss(inputs, data_samples)
        >>> feats = record.last('feats')
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = dict(targets)
        self.outputs: Dict[str, List[Any]] = defaultdict(list)
        self._before: Dict[str, Optional[MethodType]] = {}

    def __enter__(self) -> 'Recorder':
        for name, (owner, method) in self.targets.items():
            recorded = self._recording(name, getattr(owner, method))
            self._before[name] = shadow(owner, method, recorded)
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for name, (owner, method) in self.targets.items():
            unshadow(owner, method, self._before[name])

    def _recording(self, name: str, method: Callable) -> Callable:
        @wraps(method)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            self.outputs[name].append(output)
            return output

        return recorded

    def last(self, name: str) -> Any:
        """Return the newest output of a target.

        Raises:
            RuntimeError: If the target was not called.
        """
        if not self.outputs[name]:
            owner, method = self.targets[name]
            raise RuntimeError(
                f'{type(owner).__name__}.{method} was not called, so its output '
                f'({name}) cannot be distilled. Is another part of the model '
                'meant? See the "source" setting of the distiller.'
            )
        return self.outputs[name][-1]


class Replayer(Recorder):
    """Let methods return given values, one a call, instead of running.

    What is returned is recorded as well.

    Targets without given values run and are recorded, as by :class:`Recorder`.

    Args:
        targets (Mapping[str, tuple[object, str]]): As in :class:`Recorder`.
        values (Mapping[str, list]): What each target returns, call by call.
    """

    def __init__(
        self, targets: Mapping[str, Target], values: Mapping[str, List[Any]]
    ) -> None:
        super().__init__(targets)
        self.values: Dict[str, Iterator[Any]] = {
            name: iter(values[name]) for name in values
        }

    def _recording(self, name: str, method: Callable) -> Callable:
        if name not in self.values:
            return super()._recording(name, method)

        @wraps(method)
        def replayed(*args: Any, **kwargs: Any) -> Any:
            output = next(self.values[name])
            self.outputs[name].append(output)
            return output

        return replayed


def shadow(owner: object, method: str, replacement: Callable) -> Optional[MethodType]:
    """Let ``owner.method`` be ``replacement`` until :func:`unshadow`.

    It is set as on a plain object, since ``nn.Module.__setattr__`` is slow and
    rejects some values.

    Returns:
        MethodType, optional: What :func:`unshadow` has to put back.

    Raises:
        RuntimeError: If the method is shadowed already.
    """
    before = getattr(owner, method)
    is_own = method in owner.__dict__
    if is_own and not isinstance(before, MethodType):
        raise RuntimeError(
            f'{type(owner).__name__}.{method} is shadowed already; recordings '
            'of one object cannot be nested.'
        )
    object.__setattr__(owner, method, replacement)
    # Tracing can set attributes, but not remove them: the instance keeps its own
    # method in its __dict__, which changes nothing.
    return before if is_own or is_compiling() else None


def unshadow(owner: object, method: str, before: Optional[MethodType] = None) -> None:
    """Undo :func:`shadow`, given what it returned."""
    if before is None:
        owner.__dict__.pop(method, None)
    else:
        object.__setattr__(owner, method, before)


def bind_forward(module: nn.Module) -> None:
    """Keep a module's ``forward``, if it has one, on the instance too.

    The module behaves as before, and its copies get their own. But
    ``torch.compile``, which takes the class's ``forward`` for a module with none
    on the instance, then looks there and sees what shadows it.
    """
    if type(module).forward is not nn.Module.forward:
        module.__dict__.setdefault('forward', module.forward)
