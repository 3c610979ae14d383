"""Hooks for MMEngine runners."""

from .aggregated_prediction_hook import AggregatedPredictionHook
from .channels_last_hook import ChannelsLastHook
from .epoch_seed_hook import EpochSeedHook
from .mean_log_hook import MeanLogHook
from .self_teacher_metric_hook import SelfTeacherMetricHook

__all__ = [
    'AggregatedPredictionHook',
    'ChannelsLastHook',
    'EpochSeedHook',
    'MeanLogHook',
    'SelfTeacherMetricHook',
]
