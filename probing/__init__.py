"""Small supervised readers of every frozen layer, and their statistics."""

from .bank import ProbeScore, TrainingPlan, train_bank
from .example import Examples, FrameExamples, PooledExamples
from .probe import PROBES, ProbeKey
from .sweep import sweep_layers
from .target import Targets, build_targets, check_labels, majority_class
from .task import ProbeTask, resolve_tasks

__all__ = [
    "PROBES",
    "Examples",
    "FrameExamples",
    "PooledExamples",
    "ProbeKey",
    "ProbeScore",
    "ProbeTask",
    "Targets",
    "TrainingPlan",
    "build_targets",
    "check_labels",
    "majority_class",
    "resolve_tasks",
    "sweep_layers",
    "train_bank",
]
