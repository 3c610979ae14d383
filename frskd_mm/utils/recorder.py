"""Record what methods of a model return, without changing the model."""

from collections import defaultdict
from copy import copy
from functools import wraps
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
)

from torch import Tensor, nn

from .compiling import is_compiling

Target = Tuple[Any, str]
RecorderT = TypeVar('RecorderT', bound='Recorder')


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
        >>> import torch
        >>> layer = torch.nn.ReLU()
        >>> with Recorder({'feats': (layer, 'forward')}) as record:
        ...     loss = layer.forward(torch.tensor([-1.0, 2.0])).sum()
        >>> record.last('feats')
        tensor([0., 2.])
    """

    def __init__(self, targets: Mapping[str, Target]) -> None:
        self.targets = dict(targets)
        self.outputs: Dict[str, List[Any]] = defaultdict(list)

    def __enter__(self: RecorderT) -> RecorderT:
        shadowed: List[Target] = []
        try:
            for name, (owner, method) in self.targets.items():
                recorded = self._recording(name, getattr(owner, method))
                shadow(owner, method, recorded)
                shadowed.append((owner, method))
        except BaseException:  # a target that fails must not leave others behind
            for owner, method in shadowed:
                unshadow(owner, method)
            raise
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for owner, method in self.targets.values():
            unshadow(owner, method)

    def _recording(self, name: str, method: Callable) -> Callable:
        @wraps(method)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            output = method(*args, **kwargs)
            self.outputs[name].append(as_returned(output))
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
        values (Mapping[str, list], optional): What each target returns, call by call.
    """

    def __init__(
        self,
        targets: Mapping[str, Target],
        values: Optional[Mapping[str, List[Any]]] = None,
    ) -> None:
        super().__init__(targets)
        self.values: Dict[str, Iterator[Any]] = {
            name: iter(given) for name, given in (values or {}).items()
        }

    def _recording(self, name: str, method: Callable) -> Callable:
        if name not in self.values:
            return super()._recording(name, method)

        @wraps(method)
        def replayed(*args: Any, **kwargs: Any) -> Any:
            output = next(self.values[name])
            self.outputs[name].append(output)
            return as_returned(output)

        return replayed


def as_returned(output: Any) -> Any:
    """Return what stays as it is if the other holder changes the object in place.

    Grid R-CNN moves the boxes within its samples, for example. Tensors are shared.
    """
    if output is None or isinstance(output, (Tensor, list, tuple, dict)):
        return output
    return copy(output)


def shadow(owner: object, method: str, replacement: Any) -> None:
    """Let ``owner.method`` be ``replacement`` until :func:`unshadow`.

    It is set as on a plain object, since ``nn.Module.__setattr__`` is slow and
    rejects some values. What others have set on the instance, as MMEngine's
    activation checkpointing does, is put back by :func:`unshadow`.

    Args:
        owner: Module or plain object.
        method: Name of its method.
        replacement: A function or partial, which is marked with attributes.

    Raises:
        RuntimeError: If the method is shadowed already.
    """
    before = owner.__dict__.get(method)
    if is_shadow(before):
        raise RuntimeError(
            f'{type(owner).__name__}.{method} is shadowed already; recordings '
            'of one object cannot be nested.'
        )
    if before is None and is_compiling():
        # Tracing can set attributes, but not remove them: the instance keeps its
        # own method in its __dict__, which changes nothing.
        before = getattr(owner, method)
    replacement.is_shadow, replacement.before = True, before
    object.__setattr__(owner, method, replacement)


def unshadow(owner: object, method: str) -> None:
    """Undo :func:`shadow`, if it was done."""
    replacement: Any = owner.__dict__.get(method)
    if not is_shadow(replacement):
        return
    if replacement.before is None:
        del owner.__dict__[method]
    else:
        object.__setattr__(owner, method, replacement.before)


def is_shadow(method: Any) -> bool:
    """Whether a method was set by :func:`shadow`."""
    return getattr(method, 'is_shadow', False)  # hasattr() is traced wrongly


def bind_forward(module: nn.Module) -> None:
    """Keep a module's ``forward``, if it has one, on the instance too.

    The module behaves as before, and its copies get their own. But
    ``torch.compile``, which takes the class's ``forward`` for a module with none
    on the instance, then looks there and sees what shadows it.
    """
    if type(module).forward is not nn.Module.forward:
        module.__dict__.setdefault('forward', module.forward)
