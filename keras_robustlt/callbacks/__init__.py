"""Callbacks: looking at the schedule, and going on after an interruption."""

from keras_robustlt.callbacks.checkpoint import Checkpoint
from keras_robustlt.callbacks.collapse_guard import CollapseGuard
from keras_robustlt.callbacks.history_csv import HistoryCSV
from keras_robustlt.callbacks.schedule_inspector import ScheduleInspector
from keras_robustlt.callbacks.skew_and_drift import SkewAndDrift, skewed_objective

__all__ = [
    "Checkpoint",
    "CollapseGuard",
    "HistoryCSV",
    "ScheduleInspector",
    "SkewAndDrift",
    "skewed_objective",
]
