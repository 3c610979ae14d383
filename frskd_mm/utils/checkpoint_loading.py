"""Checkpoints are read as data: a pickle in one must not run code."""

import io
import pickle
import pickletools
import zipfile
from contextlib import contextmanager
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Mapping, Optional

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import OneCycleParamScheduler
from mmengine.utils import digit_version

#: What the pickles of MMEngine may take from a class with ``getattr``.
ATTRIBUTES = {
    HistoryBuffer: ('min', 'max', 'current', 'mean'),
    OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
}
#: PyTorch before it takes names in which pickles may refer to what is allowed.
HAS_SAFE_GLOBALS = digit_version(torch.__version__) >= digit_version('2.6.0')


class UntrustedCheckpointError(ValueError):
    """A checkpoint holds more than data."""


def _attribute(owner: type, name: str) -> Any:
    """Stand in for ``getattr``, which pickles call for methods of classes."""
    if name not in ATTRIBUTES.get(owner, ()):
        raise pickle.UnpicklingError(f'GLOBAL {owner.__name__}.{name} is not allowed')
    return getattr(owner, name)


def _bytes(text: str, encoding: str) -> bytes:
    """Stand in for ``codecs.encode``, by which old protocols write bytes."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode {encoding} is not allowed')
    return text.encode(encoding)


def allowed_globals() -> Dict[str, Any]:
    """Return what MMEngine's checkpoints contain beside tensors, by name.

    These are the buffers of the message hub, NumPy's arrays and scalars in them
    and in the meta data, and the annealing functions of one-cycle schedulers.
    """
    allowed: Dict[str, Any] = {'builtins.getattr': _attribute, 'builtins.slice': slice}
    for owner in ATTRIBUTES:
        allowed[f'{owner.__module__}.{owner.__qualname__}'] = owner
    # NumPy 2 has renamed the module; files of either version are read. NumPy 1.26
    # has an empty one of the new name.
    is_old = digit_version(np.__version__) < digit_version('2')
    core = getattr(np, 'core' if is_old else '_core')
    for module in ('numpy.core.multiarray', 'numpy._core.multiarray'):
        allowed[f'{module}._reconstruct'] = core.multiarray._reconstruct
        allowed[f'{module}.scalar'] = core.multiarray.scalar
    allowed.update({'numpy.ndarray': np.ndarray, 'numpy.dtype': np.dtype})
    if not HAS_SAFE_GLOBALS:  # later PyTorch has one of its own
        allowed['_codecs.encode'] = _bytes
    for code in np.typecodes['All']:
        kind = type(np.dtype(code))
        allowed[f'{kind.__module__}.{kind.__qualname__}'] = kind
    return allowed


@contextmanager
def checkpoints_as_data(cfg: Optional[Mapping[str, Any]] = None) -> Iterator[None]:
    """Let ``torch.load`` read tensors and plain data alone in this context.

    Whoever calls it, MMEngine, a host library or a teacher's loading, and whatever
    it asks for: MMEngine would fall back to running the pickle. With
    ``trust_checkpoint=True`` in the config nothing is held back.

    Args:
        cfg: Config of the run. Without one, a context around this one decides.

    Raises:
        UntrustedCheckpointError: In the context, if a file asks for anything else;
            names what.
    """
    original = torch.load
    if cfg is None and getattr(original, 'reads_data', False):
        yield
        return
    original = getattr(original, 'original', original)
    trusted = bool((cfg or {}).get('trust_checkpoint'))
    before = torch.load

    def load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
        if trusted:
            kwargs['weights_only'] = False
            return original(f, map_location, *args, **kwargs)
        kwargs = {key: kwargs[key] for key in ('encoding', 'mmap') if key in kwargs}
        return _without_code(_load_data(original, f, map_location, **kwargs))

    load.reads_data, load.original = True, original  # type: ignore[attr-defined]
    torch.load = load  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before


def _load_data(load: Callable, file: Any, map_location: Any, **kwargs: Any) -> Any:
    allowed = allowed_globals()
    try:
        if not HAS_SAFE_GLOBALS:
            return load(file, map_location, pickle_module=DataPickle, **kwargs)
        names: List[Any] = [(value, name) for name, value in allowed.items()]
        with torch.serialization.safe_globals(names):
            return load(file, map_location, weights_only=True, **kwargs)
    except pickle.UnpicklingError as error:
        name = getattr(file, 'name', file if isinstance(file, str) else 'A checkpoint')
        asked = _first_refused(file, allowed)
        reason = f'asks for {asked}' if asked else f'is not plain data ({error})'
        raise UntrustedCheckpointError(
            f'{name} {reason}, which checkpoints of MMEngine do not contain: loading '
            'it could run code of whoever made it. If you trust it, pass '
            '--trust-checkpoint, or set trust_checkpoint=True in the config.'
        ) from error


def _without_code(checkpoint: Any) -> Any:
    """Drop the config of old checkpoints, which MMEngine would execute on a resume."""
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _first_refused(file: Any, allowed: Mapping[str, Any]) -> Optional[str]:
    """Return the first name that a checkpoint's pickles ask for in vain."""
    own = torch._weights_only_unpickler._get_allowed_globals()
    try:
        for pickled in _pickles(file):
            for name in _globals_of(pickled):
                if name not in allowed and name not in own:
                    return name
    except Exception:  # not a pickle to its end
        pass
    return None


def _pickles(file: Any) -> List[BinaryIO]:
    if isinstance(file, io.IOBase):
        file.seek(0)
        content = file.read()
    else:
        with open(file, 'rb') as opened:
            content = opened.read()
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return [io.BytesIO(content)]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.endswith('data.pkl')]
        return [io.BytesIO(archive.read(name)) for name in names]


def _globals_of(pickled: BinaryIO) -> Iterator[str]:
    """Yield the dotted names that a file of pickles asks for, of any protocol."""
    strings: List[str] = []
    size = len(pickled.getbuffer())  # type: ignore[attr-defined]
    while pickled.tell() < size:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in ('GLOBAL', 'INST'):
                yield str(argument).replace('__builtin__', 'builtins').replace(' ', '.')
            elif opcode.name == 'STACK_GLOBAL':
                yield '.'.join(strings[-2:])
            elif isinstance(argument, str):
                strings.append(argument)


class _DataUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    """What ``weights_only=True`` is to later versions of PyTorch."""

    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        """Return what is allowed under a name."""
        full = f'{module}.{name}'.replace('__builtin__', 'builtins')
        known = torch._weights_only_unpickler._get_allowed_globals()
        for allowed in (known, allowed_globals()):
            if full in allowed:
                return allowed[full]
        raise pickle.UnpicklingError(f'GLOBAL {full} is not allowed')

    def load_build(self) -> None:
        """Set the state of objects, not attributes of classes or functions."""
        target = self.stack[-2]  # type: ignore[attr-defined]
        if isinstance(target, type) or not isinstance(
            target, (torch.Tensor, dict, HistoryBuffer, np.ndarray, np.dtype)
        ):
            raise pickle.UnpicklingError(f'state for a {type(target).__name__}')
        super().load_build()  # type: ignore[misc]

    dispatch[pickle.BUILD[0]] = load_build  # type: ignore[assignment]


class DataPickle:
    """Stands in for the module ``pickle`` in ``torch.load``."""

    Unpickler = _DataUnpickler
    UnpicklingError = pickle.UnpicklingError

    @staticmethod
    def load(file: BinaryIO, **kwargs: Any) -> Any:
        """Read one pickle."""
        return _DataUnpickler(file, **kwargs).load()
