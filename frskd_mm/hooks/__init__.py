"""Hooks for MMEngine runners."""

from .aggregated_prediction_hook import AggregatedPredictionHook
from .channels_last_hook import ChannelsLastHook
from .epoch_seed_hook import EpochSeedHook
from .exact_resume_hook import ExactResumeHook
from .inside_hook import InsideHook
from .mean_log_hook import MeanLogHook
from .non_finite_hook import NonFiniteHook
from .progress_bar_hook import ProgressBarHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .self_teacher_metric_hook import SelfTeacherMetricHook

__all__ = [
    'AggregatedPredictionHook',
    'ChannelsLastHook',
    'EpochSeedHook',
    'ExactResumeHook',
    'InsideHook',
    'MeanLogHook',
    'NonFiniteHook',
    'ProgressBarHook',
    'SafeCheckpointHook',
    'SelfTeacherMetricHook',
]
