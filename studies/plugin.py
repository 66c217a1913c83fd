"""Tasks and probes of other people in a study: keys hold their code, and records name it."""

from collections.abc import Mapping, Sequence
from typing import Any

from auscult.errors import UserError
from auscult.foreign import FORM
from auscult.probing import PROBE_TABLE, PROBES, TASK_TABLE, ProbeTask


def movable(task: ProbeTask) -> ProbeTask:
    """Return an object that is a task, unless another process could not know what it reads.

    Raises:
        UserError: It reads labels with a function.
    """
    if task.read is not None:
        raise UserError(
            f"{task.spec.name} reads labels with a function, which no key of kept work can hold; "
            f"put it into a file and name it, {FORM}."
        )
    return task


def theirs_of(task: ProbeTask, probes: Sequence[str]) -> dict[str, Any]:
    """Return, where task or probes are not ours, whose they are and the fingerprint of the code."""
    found = [PROBE_TABLE.find(probe) for probe in probes if probe not in PROBES]
    found += [TASK_TABLE.find(task.spec.name)] if task.spec.origin else []
    return {"theirs": {x.name: [x.origin, x.code] for x in found}} if found else {}


def check_unchanged(task: ProbeTask, what: Mapping[str, Any]) -> None:
    """Refuse somebody's task or probe whose code changed since it was planned.

    Raises:
        UserError: With its name.
    """
    planned: Mapping[str, Any] = what.get("theirs", {})
    for name, code in theirs_of(task, what["probes"]).get("theirs", {}).items():
        if code != planned.get(name):
            raise UserError(f"{name} has changed since this was planned; run the command again.")


def origins_of(what: Mapping[str, Any]) -> list[str]:
    """Return whose the code of an item's task and probes is, but for ours."""
    return [origin for origin, _ in what.get("theirs", {}).values()]
