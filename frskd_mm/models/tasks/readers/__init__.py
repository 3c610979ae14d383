"""How the outputs of each kind of detector head are compared."""

from .base import HeadReader, find_readers
from .dense import DenseReader, RPNReader
from .mask import MaskReader
from .proposal import ProposalReader
from .query import QueryReader

__all__ = [
    'DenseReader',
    'HeadReader',
    'MaskReader',
    'ProposalReader',
    'QueryReader',
    'RPNReader',
    'find_readers',
]
