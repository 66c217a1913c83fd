"""Verbs that are killed, and verbs on a bad disk: short versions of the campaigns."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools" / "campaign"


def campaign(*words: object) -> str:
    """Run a campaign in a process of its own: it forks before torch has threads."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, words)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_killed_verbs_end_as_unbroken_ones() -> None:
    said = campaign(TOOLS / "kill.py", "--runs", 2)
    assert said.count("2 of 2 held") == 8


@pytest.mark.slow
def test_killed_processes_end_as_one_unbroken_one() -> None:
    verbs = ("attention", "extract")
    said = campaign(TOOLS / "kill.py", "--executor", "local:2", "--runs", 1, "--verb", *verbs)
    assert said.count("1 of 1 held") == len(verbs)


@pytest.mark.slow
def test_verbs_on_a_bad_disk() -> None:
    said = campaign(TOOLS / "fault.py", "--runs", 2)
    assert said.count("2 of 2 held") == 3 * 8
