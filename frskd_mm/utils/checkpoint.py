"""Reading a checkpoint's tensors and comparing them with a model's."""

import re
from typing import Any, Dict, List, Mapping

from torch import Tensor

Misfits = Dict[str, List[str]]


def weights_of(checkpoint: Mapping[str, Any]) -> Dict[str, Tensor]:
    """Return the weights of a loaded checkpoint by their names in the model.

    The prefix that MMEngine's DDPStrategy leaves is stripped, as MMEngine's own
    loading does.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    return {re.sub(r'^module\.', '', name): weights[name] for name in weights}


def find_misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Misfits:
    """Return the names of tensors that do not fit, by kind.

    Batch counters of norm layers are ignored, as MMEngine does.

    Args:
        own: The model's state dict.
        given: The checkpoint's.
    """

    def without_counters(keys: set) -> List[str]:
        return sorted(key for key in keys if not key.endswith('num_batches_tracked'))

    return {
        'missing': without_counters(own.keys() - given.keys()),
        'unknown': without_counters(given.keys() - own.keys()),
        'of another shape': sorted(
            f'{key} {tuple(given[key].shape)} instead of {tuple(own[key].shape)}'
            for key in own.keys() & given.keys()
            if given[key].shape != own[key].shape
        ),
    }


def summarize_misfits(misfits: Misfits, limit: int = 5) -> str:
    """Name up to ``limit`` tensors of each kind; empty if all fit."""
    parts = []
    for kind, keys in misfits.items():
        if keys:
            more = f' and {len(keys) - limit} more' if len(keys) > limit else ''
            parts.append(f'{len(keys)} {kind} ({", ".join(keys[:limit])}{more})')
    return '; '.join(parts)
