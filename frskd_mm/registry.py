"""Registries of the toolkit, each a child of the MMEngine root registry.

MMEngine imports this module by itself when it meets a type such as
``frskd_mm.BiFPNc``, so any OpenMMLab project can use the components with
nothing else imported. The modules named in ``locations`` are imported on the
first look-up.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import STRATEGIES as MMENGINE_STRATEGIES
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry

__all__ = [
    'DATASETS',
    'FUNCTIONS',
    'HEAD_READERS',
    'HOOKS',
    'METRICS',
    'MODELS',
    'STRATEGIES',
    'TRANSFORMS',
]

MODELS = Registry(
    'model', parent=MMENGINE_MODELS, scope='frskd_mm', locations=['frskd_mm.models']
)
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='frskd_mm',
    locations=['frskd_mm.datasets'],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='frskd_mm',
    locations=['frskd_mm.datasets'],
)
METRICS = Registry(
    'metric',
    parent=MMENGINE_METRICS,
    scope='frskd_mm',
    locations=['frskd_mm.evaluation'],
)
HOOKS = Registry(
    'hook', parent=MMENGINE_HOOKS, scope='frskd_mm', locations=['frskd_mm.hooks']
)
FUNCTIONS = Registry(
    'function',
    parent=MMENGINE_FUNCTIONS,
    scope='frskd_mm',
    locations=['frskd_mm.datasets'],
)
STRATEGIES = Registry(
    'strategy',
    parent=MMENGINE_STRATEGIES,
    scope='frskd_mm',
    locations=['frskd_mm.engine.fsdp_strategy'],
)
#: Readers of detector heads, see ``frskd_mm.models.tasks.readers.HeadReader``.
#: MMEngine has no such parts, so this registry has no parent.
HEAD_READERS = Registry(
    'head reader', scope='frskd_mm', locations=['frskd_mm.models.tasks.readers']
)
