"""SUPERB tasks and their heads, trained by s3prl's runner."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from auscult.contracts import TaskSpec
from auscult.errors import unknown

__all__ = ["TASKS", "HeadTask", "find_task"]


@dataclass(frozen=True, slots=True)
class HeadTask:
    """A task, and where its protocol and its downstream expert are; imported when asked for."""

    spec: TaskSpec
    module: str
    expert: str  # its class, called with dimensions, corpus, config and seed
    configuration: str  # its dataclass; defaults are the published protocol

    def config(self) -> Any:
        """Return the published protocol."""
        return getattr(importlib.import_module(self.module), self.configuration)()

    def expert_class(self) -> Any:
        """Return the class of the downstream expert."""
        return getattr(importlib.import_module(self.module), self.expert)


_ROWS = (
    HeadTask(
        TaskSpec(
            name="keyword_spotting",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.keyword_spotting",
        expert="KeywordSpotting",
        configuration="KeywordSpottingConfig",
    ),
)
TASKS: Mapping[str, HeadTask] = {row.spec.name: row for row in _ROWS}


def find_task(name: str) -> HeadTask:
    """Return the task called ``name``.

    Raises:
        UserError: There is none.
    """
    if name not in TASKS:
        raise unknown("task", name, TASKS)
    return TASKS[name]
