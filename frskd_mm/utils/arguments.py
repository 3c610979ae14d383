"""Checking the arguments of registered parts where these are built."""

import difflib
import functools
import inspect
import math
import numbers
from collections.abc import Mapping
from collections.abc import Sequence as AnySequence
from typing import (
    Any,
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

Function = TypeVar('Function', bound=Callable[..., Any])


class ArgumentError(ValueError, TypeError):
    """An argument of a registered part has the wrong type or value.

    Args:
        owner: The part's class, or the name that configs have for it.
        argument: The key as a config has it.
        problem: What is wrong with it.
    """

    def __init__(self, owner: str, argument: str, problem: str) -> None:
        super().__init__(f'{argument} of {owner} {problem}')
        self.owner = owner
        self.argument = argument


class Rule(NamedTuple):
    """What the value of an argument has to satisfy, beside its type."""

    holds: Callable[[Any], bool]
    #: Ends the sentence "x must be ...".
    wanted: str
    #: Whether the elements of a list are meant instead of the list.
    of_elements: bool = True
    choices: Tuple[Any, ...] = ()


POSITIVE = Rule(lambda value: value > 0, 'positive')
FRACTION = Rule(lambda value: 0 <= value <= 1, 'within [0, 1]')


def at_least(limit: float) -> Rule:
    """Require numbers that are not below a limit."""
    return Rule(lambda value: value >= limit, f'>= {limit}')


NOT_NEGATIVE = at_least(0)


def one_of(*choices: Any) -> Rule:
    """Require one of some values."""
    return Rule(lambda value: value in choices, f'one of {choices}', choices=choices)


def length(fewest: int, most: Optional[int] = None, advice: str = '') -> Rule:
    """Require so many elements of a list.

    Args:
        fewest: At least so many.
        most: At most so many; no limit by default.
        advice: What to change, as the end of the sentence.
    """
    limits = f'{fewest}' if most == fewest else f'{fewest} or more'
    if most not in (None, fewest):
        limits = f'{fewest} to {most}'
    return Rule(
        lambda value: fewest <= len(value) <= (math.inf if most is None else most),
        f'a list of {limits}{advice}',
        of_elements=False,
    )


def check_arguments(
    *owner: str, **rules: Union[Rule, Sequence[Rule]]
) -> Callable[[Function], Function]:
    """Decorate a constructor: its arguments are checked before it runs.

    Types are those of the annotations: bool, int, float, str, dict, lists and
    tuples of these, optional or one of several. Others are not checked, and
    neither is None where it is the default. Numbers must be finite.

    Example:
        >>> class Loss:
        ...     @check_arguments(loss_weight=NOT_NEGATIVE)
        ...     def __init__(self, loss_weight: float = 1.0) -> None: ...
        >>> Loss(loss_weight='2')
        Traceback (most recent call last):
        frskd_mm.utils.arguments.ArgumentError: loss_weight of Loss must be ...

    Args:
        *owner: What configs call the part, of a function; a class has its name.
        **rules: What else is asked of an argument.

    Raises:
        ArgumentError: When the part is built, if an argument is wrong.
        TypeError: When it is built, if there is no such argument or one is
            missing.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        stray = rules.keys() - signature.parameters.keys()
        if stray:
            raise KeyError(f'{function.__qualname__} has no argument {sorted(stray)}.')

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            name = owner[0] if owner else type(args[0]).__name__
            _check_names(name, signature, args, kwargs)
            hints = _hints(function)
            given = signature.bind(*args, **kwargs).arguments
            for argument, value in given.items():
                parameter = signature.parameters[argument]
                if argument not in hints or parameter.kind in _VARIABLE:
                    continue
                if value is None and parameter.default is None:
                    continue
                check_value(
                    name, argument, value, hints[argument], rules.get(argument, ())
                )
            return function(*args, **kwargs)

        checked.checks_arguments = True  # type: ignore[attr-defined]
        return checked  # type: ignore[return-value]

    return decorate


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@functools.lru_cache(maxsize=None)
def _hints(function: Callable[..., Any]) -> Dict[str, Any]:
    return get_type_hints(function)


def _check_names(
    owner: str, signature: inspect.Signature, args: tuple, kwargs: Dict[str, Any]
) -> None:
    """Raise ``TypeError`` for arguments that there are not, or that are missing."""
    try:
        signature.bind(*args, **kwargs)
        return
    except TypeError:
        pass
    named = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in _VARIABLE and name != 'self'
    ]
    for key in kwargs:
        if key not in named:
            raise TypeError(
                f'{owner} has no argument {key}.{did_you_mean(key, named)} It takes '
                f'{", ".join(named)}.'
            )
    positional = list(signature.parameters)[: len(args)]
    missing = [
        name
        for name in named
        if signature.parameters[name].default is inspect.Parameter.empty
        and name not in kwargs
        and name not in positional
    ]
    raise TypeError(f'{owner} needs {", ".join(missing)}. Set it in the config.')


def check_value(
    owner: str,
    argument: str,
    value: Any,
    hint: Any,
    rules: Union[Rule, Sequence[Rule]] = (),
) -> None:
    """Check one value.

    Args:
        owner: Whose argument it is, for the message.
        argument: Its name, for the message.
        value: What was given.
        hint: The type that it should have.
        rules: What else is asked of it.

    Raises:
        ArgumentError: If it is wrong.
    """
    if not _fits(value, hint):
        raise ArgumentError(
            owner, argument, f'must be {_describe(hint)}, got {value!r}.'
        )
    for rule in [rules] if isinstance(rules, Rule) else rules:
        is_list = isinstance(value, (list, tuple))
        values = value if is_list and rule.of_elements else [value]
        if not all(map(rule.holds, values)):
            shown = rule.wanted
            if is_list and rule.of_elements:
                shown += ' each'
            hint_text = did_you_mean(value, rule.choices)
            raise ArgumentError(
                owner, argument, f'must be {shown}, got {value!r}.{hint_text}'
            )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has an annotated type; unknown ones always fit."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Union:
        return any(_fits(value, option) for option in inner)
    if hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        kind = numbers.Integral if hint is int else numbers.Real
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return is_number and math.isfinite(value)
    if hint is str:
        return isinstance(value, str)
    if hint is dict or origin is dict:
        return isinstance(value, Mapping)
    if _is_list(hint):
        if isinstance(value, str) or not isinstance(value, AnySequence):
            # Tensor modules come in a ModuleList, which is no sequence.
            return not isinstance(value, (str, numbers.Number, Mapping, type(None)))
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        return all(_fits(element, inner[0]) for element in value) if inner else True
    return True


def _is_list(hint: Any) -> bool:
    return hint in (list, tuple) or get_origin(hint) in (list, tuple, AnySequence)


_NAMES = {
    bool: ('True or False', 'True or False'),
    int: ('a whole number', 'whole numbers'),
    float: ('a finite number', 'finite numbers'),
    str: ('a text', 'texts'),
    dict: ('a dict', 'dicts'),
    type(None): ('None', 'None'),
}


def _describe(hint: Any) -> str:
    """Say in words what type is wanted."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Union:
        return ' or '.join(_describe(option) for option in inner)
    if _is_list(hint):
        if origin is tuple and inner and inner[-1] is not Ellipsis:
            return f'a list of {len(inner)} {_plural(inner[0])}'
        return f'a list of {_plural(inner[0])}' if inner else 'a list'
    names = _NAMES.get(dict if origin is dict else hint)
    return names[0] if names else str(getattr(hint, '__name__', hint))


def _plural(hint: Any) -> str:
    names = _NAMES.get(dict if get_origin(hint) is dict else hint)
    return names[1] if names else f'{_describe(hint)} each'


def did_you_mean(given: Any, known: Sequence[Any], cutoff: float = 0.6) -> str:
    """Return ' Did you mean ...?' if something known resembles what was given.

    Args:
        given: What the user wrote.
        known: What there is; only texts are compared.
        cutoff: How alike they have to be, from 0 to 1.
    """
    names: List[str] = [name for name in known if isinstance(name, str)]
    if not isinstance(given, str):
        return ''
    similar = difflib.get_close_matches(given, names, n=1, cutoff=cutoff)
    if not similar:  # such as a part of a name
        similar = [n for n in names if given and n.lower().startswith(given.lower())]
    return f' Did you mean {similar[0]}?' if similar else ''
