"""`auscult tasks` as a user types it."""

import json
from collections.abc import Callable

from auscult.downstreams import TASKS

Run = Callable[..., tuple[int, str, str]]


def test_every_task_is_listed(run: Run) -> None:
    status, stdout, _ = run("tasks")
    assert status == 0
    assert len(TASKS) >= 10 and all(name in stdout for name in TASKS)


def test_as_json(run: Run) -> None:
    status, stdout, stderr = run("tasks", "--json", "--quiet")
    assert status == 0 and stderr == ""
    tasks = {task["name"]: task for task in json.loads(stdout)["tasks"]}
    assert list(tasks) == list(TASKS)
    spotting, search = tasks["keyword_spotting"], tasks["query_by_example"]
    assert spotting["metrics"][0] == "accuracy" and spotting["trains"]
    assert spotting["protocol"]["total_steps"] == 200_000
    assert search["metrics"] == ["mtwv", "map"] and not search["trains"]
    assert all(task["labels"] and task["head"] and task["description"] for task in tasks.values())


def test_help_has_an_example(run: Run) -> None:
    status, stdout, _ = run("tasks", "--help")
    assert status == 0 and "auscult tasks --json" in stdout
