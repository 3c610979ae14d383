"""Metrics for MMEngine's evaluators."""

from .calibration import Calibration

__all__ = ['Calibration']
