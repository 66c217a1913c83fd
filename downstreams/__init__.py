"""SUPERB tasks and their heads, trained by s3prl's runner."""

from collections.abc import Mapping

from auscult.contracts import TaskSpec
from auscult.errors import unknown

from .task import HeadTask

__all__ = ["TASKS", "HeadTask", "find_task"]

_ROWS = (
    HeadTask(
        spec=TaskSpec(
            name="keyword_spotting",
            version=1,
            output="utterance",
            metrics=("accuracy", "macro_accuracy"),
        ),
        module="auscult.downstreams.keyword_spotting",
        expert="KeywordSpotting",
        configuration="KeywordSpottingConfig",
        head="s3prl:UtteranceLevel",
        labels="one word for each utterance (label=keyword)",
        description="SUPERB KS: one of a few words",
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
