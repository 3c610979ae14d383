"""Saying where in a config a part is that cannot be built, and what was meant."""

import inspect
import re
import traceback
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional, Tuple

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry

import frskd_mm.registry
from frskd_mm.utils.arguments import ArgumentError, did_you_mean
from frskd_mm.utils.command import raised_on_purpose
from frskd_mm.utils.scope import type_name

#: How alike the names of types have to be to be suggested.
CUTOFF = 0.75
_UNKNOWN_TYPE = re.compile(r'(\S+) is not in the (\S+)::(.+) registry\.')
_MISSING_ARGUMENT = re.compile(
    r'(?:(\w+)\.)?__init__\(\) missing \d+ required .* arguments?: (.+)'
)
_UNKNOWN_ARGUMENT = re.compile(
    r"(?:(\w+)\.)?__init__\(\) got an unexpected keyword argument '(\w+)'"
)


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Let errors of the parts built within name their place in the config.

    Args:
        cfg: The config that the parts come from.

    Raises:
        KeyError: Instead of MMEngine's, for an unknown type; names similar ones.
        TypeError: Instead of Python's, for an unknown or a missing argument.
        ArgumentError: With the place of the wrong argument.
        ValueError: For any error without a word from within the constructor of a
            library's part, which its settings have led astray.
    """
    try:
        yield
    except ArgumentError as error:
        place = _find(cfg, error.argument, error.owner)
        if place is not None and place not in str(error):
            error.args = (f'{error} It is {place} in the config.',)
        raise
    except KeyError as error:
        match = _UNKNOWN_TYPE.match(str(error.args[0]) if error.args else '')
        if match is None:
            raise
        raise KeyError(_explain_type(cfg, *match.groups())) from error
    except TypeError as error:
        unknown = _UNKNOWN_ARGUMENT.search(str(error))
        if unknown is not None:
            raise TypeError(_explain_argument(cfg, *unknown.groups())) from error
        missing = _MISSING_ARGUMENT.search(str(error))
        if missing is not None:
            raise TypeError(_explain_missing(cfg, *missing.groups())) from error
        _explain_build(cfg, error)
        raise
    except Exception as error:
        _explain_build(cfg, error)
        raise


def _explain_type(cfg: Config, name: str, scope: str, kind: str) -> str:
    text = f'{name} is not in the {scope}::{kind} registry.'
    place = _find(cfg, 'type', value=name)
    if place is not None:
        text = f'{place}={name!r}: {text}'
    known = _known_types(kind)
    short = name.rpartition('.')[2]
    same = [full for full in known if full.rpartition('.')[2] == short]
    if same:
        text += f' Did you mean {" or ".join(sorted(same)[:3])}?'
    else:
        shorts = {full.rpartition('.')[2]: full for full in known}
        text += did_you_mean(name, known, CUTOFF) or did_you_mean(
            short, list(shorts), CUTOFF
        )
    if not cfg.get('default_scope'):
        text += (
            " The config has no default_scope, such as default_scope='mmpretrain', in "
            'which types without a scope are looked up.'
        )
    return f'{text} Types of your own are registered by modules in custom_imports.'


def _explain_build(cfg: Config, error: Exception) -> None:
    """Raise an error that names the part of a library that could not be built.

    Raises:
        ValueError: If there is one and the library does not say what is wrong.
    """
    if str(error) and raised_on_purpose(error):
        return
    part = None
    entry = error.__traceback__
    while entry is not None:
        frame = entry.tb_frame
        if frame.f_code.co_name == 'build_from_cfg':
            part = frame.f_locals.get('obj_type')
        elif str(frame.f_globals.get('__name__')).startswith('frskd_mm.'):
            part = None  # our code is to blame
        entry = entry.tb_next
    if part is None:
        return
    name = type_name(part)
    place = _find(cfg, 'type', name)
    where = f', {place.rpartition(".")[0]} in the config,' if place else ''
    # A bare assertion says nothing but its line.
    words = str(error) or traceback.extract_tb(error.__traceback__)[-1].line
    raise ValueError(
        f'{name}{where} cannot be built from its settings. '
        f'{type(error).__name__}: {words}'
    ) from error


def _known_types(kind: str) -> List[str]:
    """Return the types that the imported libraries register, with scope."""
    roots = [
        entry
        for entry in vars(mmengine.registry).values()
        if isinstance(entry, Registry) and entry.name == kind
    ]
    for name in frskd_mm.registry.__all__:
        entries = getattr(frskd_mm.registry, name)
        if entries.name == kind:
            entries.import_from_location()
    known = []
    while roots:
        registry = roots.pop()
        scope = '' if registry.scope == 'mmengine' else f'{registry.scope}.'
        known += [f'{scope}{name}' for name in registry.module_dict]
        roots += list(registry.children.values())
    return known


def _explain_argument(cfg: Config, owner: Optional[str], argument: str) -> str:
    place = _find(cfg, argument, owner) or _find(cfg, argument)
    text = f'{owner or "A part"} has no argument {argument}.'
    if place is not None:
        text = f'{text[:-1]}, which is {place} in the config.'
    return text + did_you_mean(argument, _arguments_of(owner))


def _explain_missing(cfg: Config, owner: Optional[str], arguments: str) -> str:
    place = _find(cfg, 'type', owner)
    where = f' at {place.rpartition(".")[0]} of the config' if place else ''
    return f'{owner or "A part"} needs {arguments}, which is not set{where}.'


def _arguments_of(owner: Optional[str]) -> List[str]:
    """Return the arguments of a registered class and of its bases."""
    for entry in vars(mmengine.registry).values():
        registries = [entry] if isinstance(entry, Registry) else []
        while registries:
            registry = registries.pop()
            registries += list(registry.children.values())
            part = registry.module_dict.get(owner)
            if inspect.isclass(part):
                return sorted(
                    name
                    for base in inspect.getmro(part)[:-1]
                    for name in inspect.signature(base).parameters
                    if name not in ('self', 'args', 'kwargs')
                )
    return []


def _find(
    cfg: Any, key: str, owner: Optional[str] = None, value: Any = None
) -> Optional[str]:
    """Return the only place of a key in a config, such as 'model.neck.depth'.

    Args:
        cfg: Config.
        key: Last part of the place.
        owner: Type of the part that has the key.
        value: What the key has there.
    """
    places = [
        path
        for path, part in _parts('', getattr(cfg, '_cfg_dict', cfg))
        if key in part
        and (value is None or part[key] == value)
        and (owner is None or type_name(part.get('type')) == owner)
    ]
    # A config keeps variables of its own beside the parts that are built.
    places = [f'{path}.{key}'.lstrip('.') for path in places]
    built = [place for place in places if place.split('.')[0] in _BUILT]
    return built[0] if len(built) == 1 else None


#: What the runner builds.
_BUILT = (
    'model',
    'data_preprocessor',
    'train_dataloader',
    'val_dataloader',
    'test_dataloader',
    'optim_wrapper',
    'param_scheduler',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'val_evaluator',
    'test_evaluator',
    'default_hooks',
    'custom_hooks',
    'visualizer',
    'log_processor',
    'strategy',
)


def _parts(path: str, part: Any) -> Iterator[Tuple[str, dict]]:
    """Yield all dicts of a config with their places."""
    if isinstance(part, dict):
        yield path, part
        for key, inner in part.items():
            yield from _parts(f'{path}.{key}', inner)
    elif isinstance(part, (list, tuple)):
        for index, inner in enumerate(part):
            yield from _parts(f'{path}[{index}]', inner)
