"""How the outputs of each kind of detector head are compared."""

from .base import HeadReader, find_readers
from .dense import DenseReader, GridReader, RPNReader, YOLOV3Reader
from .mask import MaskReader
from .mask_query import MaskQueryReader, QueryMaskReader
from .proposal import ProposalReader
from .query import QueryReader, QueryStageReader
from .rotated import RotatedReader

__all__ = [
    'DenseReader',
    'GridReader',
    'HeadReader',
    'MaskQueryReader',
    'MaskReader',
    'ProposalReader',
    'QueryMaskReader',
    'QueryReader',
    'QueryStageReader',
    'RPNReader',
    'RotatedReader',
    'YOLOV3Reader',
    'find_readers',
]
