"""Small supervised readers of every frozen layer, and their statistics."""

from .bank import ProbeScore, TrainingPlan, train_bank
from .example import Examples, FrameExamples, PooledExamples
from .margin import Margin, Resampled, margins
from .probe import PROBES, ProbeKey
from .sweep import sweep_layers
from .target import Targets, build_targets, check_labels, majority_class
from .task import ProbeTask, resolve_tasks

__all__ = [
    "PROBES",
    "Examples",
    "FrameExamples",
    "Margin",
    "PooledExamples",
    "ProbeKey",
    "ProbeScore",
    "ProbeTask",
    "Resampled",
    "Targets",
    "TrainingPlan",
    "build_targets",
    "check_labels",
    "majority_class",
    "margins",
    "resolve_tasks",
    "sweep_layers",
    "train_bank",
]
