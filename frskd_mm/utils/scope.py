"""The registry scopes and the names of types in configs."""

from typing import Any


def drop_own_scope(part: Any) -> None:
    """Let a config that inherits ``frskd_mm::...`` name types of the host library.

    MMEngine marks what comes from another package with that package's scope, where
    the host's types, such as those of the student, are not found.

    Args:
        part: Config or a part of it; changed in place.
    """
    if isinstance(part, dict):
        if part.get('_scope_') == 'frskd_mm':
            del part['_scope_']
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for value in part:
            drop_own_scope(value)


def is_own(kind: Any, name: str) -> bool:
    """Whether a type is this package's part of that name, or the part itself.

    A pure Python config that was dumped names it by its module.
    """
    module = kind if isinstance(kind, str) else getattr(kind, '__module__', '')
    return module.startswith('frskd_mm.') and type_name(kind) == name


def type_name(kind: Any) -> str:
    """Return the last part of a config's type, a name or in pure Python a class."""
    return str(getattr(kind, '__name__', kind)).rpartition('.')[2]
