"""Reading a checkpoint's tensors and comparing them with a model's."""

import re
from collections import OrderedDict
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple

from torch import Tensor, nn

Misfits = Dict[str, List[str]]
#: What only checks weights, and converts none.
OWN_HOOKS = ('_check_checkpoint', '_check_backbone_weights')


def weights_of(checkpoint: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Return the weights of a loaded checkpoint by their names in the model.

    The prefix that MMEngine's DDPStrategy leaves is stripped, and the versions of the
    modules are kept, as MMEngine's own loading does.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    named: Any = OrderedDict(
        (re.sub(r'^module\.', '', name), weights[name]) for name in weights
    )
    named._metadata = getattr(weights, '_metadata', {})
    return named


def select_weights(
    weights: Mapping[str, Tensor], wanted: Callable[[str], bool]
) -> Dict[str, Tensor]:
    """Return some of the weights, with the versions of the modules.

    Args:
        weights: A state dict, as of :func:`weights_of`.
        wanted: Whether a name is.
    """
    chosen: Any = OrderedDict(
        (name, value) for name, value in weights.items() if wanted(name)
    )
    chosen._metadata = getattr(weights, '_metadata', {})
    return chosen


def find_misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Misfits:
    """Return the names of tensors that do not fit, by kind.

    Batch counters of norm layers are ignored, as MMEngine does.

    Args:
        own: The model's state dict.
        given: The checkpoint's.
    """
    return {
        'missing': _without_counters(own.keys() - given.keys()),
        'unknown': _without_counters(given.keys() - own.keys()),
        'of another shape': sorted(
            f'{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own.keys() & given.keys()
            if given[key].shape != own[key].shape
        ),
    }


def as_converted(model: nn.Module, given: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """Return weights as a model's modules convert them while they are loaded.

    Backbones bring names of earlier versions, or position embeddings of another
    image size, into their own form by hooks. What they leave out since they compute
    it anew, as Swin v2 does its tables of positions, is the model's own. Nothing is
    loaded.

    Args:
        model: What would load them.
        given: Weights by name; left as they are.
    """
    converted = OrderedDict(given)
    for name, module in model.named_modules():
        if not name:
            continue  # what asks is a hook of the model itself
        arguments: Tuple[Any, ...] = (converted, f'{name}.', {}, True, [], [], [])
        if _renames(module):
            module._load_from_state_dict(*arguments)
            continue
        for hook in module._load_state_dict_pre_hooks.values():
            if getattr(hook, '__name__', '') not in OWN_HOOKS:
                hook(*arguments)
    own = model.state_dict()
    left_out = (given.keys() & own.keys()) - converted.keys()
    converted.update((name, own[name]) for name in left_out)
    return converted


def _renames(module: nn.Module) -> bool:
    """Whether a module converts weights where it loads them, but has none itself.

    Swin brings names of before mmpretrain 1.0 into its form like that.
    """
    loads = type(module)._load_from_state_dict
    is_own = not loads.__module__.startswith('torch.')
    return is_own and not module._parameters and not module._buffers


def find_loading_misfits(
    model: nn.Module, given: Mapping[str, Tensor], ignored: Sequence[str] = ()
) -> Misfits:
    """Return the names of tensors that do not fit when they are loaded, by kind.

    Modules may convert what they load, such as names of earlier versions or position
    embeddings of another image size. So where names or shapes differ, the weights are
    loaded, as far as they fit.

    Args:
        model: May get the weights.
        given: The checkpoint's, as :func:`weights_of` returns them.
        ignored: Beginnings of names that do not matter.
    """
    own, kind = model.state_dict(), 'of another shape'
    misfits = _matter(find_misfits(own, given), ignored)
    if not any(misfits.values()):
        return misfits
    # Of what does not matter, what fits goes along: a distilled model sees by it
    # that the weights are not a plain student's.
    loaded: Any = OrderedDict(
        (name, value)
        for name, value in given.items()
        if not name.startswith(tuple(ignored))
        or (name in own and own[name].shape == value.shape)
    )
    loaded._metadata = getattr(given, '_metadata', {})
    try:
        missing, unknown = model.load_state_dict(loaded, strict=False)
    except RuntimeError as error:  # which names those of another shape alone
        shapes = [m for m in misfits[kind] if f' {m.split()[0]}: ' in str(error)]
        return {**misfits, kind: shapes}
    found = {
        'missing': _without_counters(missing),
        'unknown': _without_counters(unknown),
        kind: [],
    }
    return _matter(found, ignored)


def _without_counters(keys: Iterable[str]) -> List[str]:
    return sorted(key for key in keys if not key.endswith('num_batches_tracked'))


def _matter(misfits: Misfits, ignored: Sequence[str]) -> Misfits:
    return {
        kind: [name for name in names if not name.startswith(tuple(ignored))]
        for kind, names in misfits.items()
    }


def summarize_misfits(misfits: Misfits, limit: int = 5) -> str:
    """Name up to ``limit`` tensors of each kind; empty if all fit."""
    parts = []
    for kind, keys in misfits.items():
        if keys:
            more = f' and {len(keys) - limit} more' if len(keys) > limit else ''
            parts.append(f'{len(keys)} {kind} ({", ".join(keys[:limit])}{more})')
    return '; '.join(parts)
