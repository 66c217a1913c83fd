"""Small supervised readers of every frozen layer, and their statistics."""

from .bank import ProbeScore, TrainingPlan, train_bank
from .example import Examples, FrameExamples, PooledExamples
from .probe import HIDDEN, PROBES, ProbeKey
from .probe import TABLE as PROBE_TABLE
from .sweep import sweep_layers
from .target import Targets, build_targets, check_labels, majority_class
from .task import PATTERNS, TASKS, ProbeTask, resolve_tasks
from .task import TABLE as TASK_TABLE

__all__ = [
    "HIDDEN",
    "PATTERNS",
    "PROBES",
    "PROBE_TABLE",
    "TASKS",
    "TASK_TABLE",
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
