"""Several processes: the numbers of one, after a kill too."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auscult import studies
from auscult.errors import UserError
from auscult.results import open_store

WORDS = ("--probe", "linear", "--max-epochs", "2", "--threads", "1", "--json", "--quiet")


def command(corpus: str, out: Path, executor: str) -> list[str]:
    words = [sys.executable, "-m", "auscult", "probe", "-u", "fbank", "-u", "mfcc"]
    words += ["-c", corpus, "-t", "keyword", "-t", "phone", "--no-baselines", *WORDS]
    return [*words, "--executor", executor, "--out", str(out)]


def numbers(records: Any) -> list[Any]:
    keys = (
        "upstream",
        "task",
        "probe",
        "layer",
        "metric",
        "split",
        "value",
        "low",
        "high",
        "config",
    )
    return sorted(json.dumps({key: record[key] for key in keys}) for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_kill_among_processes_changes_nothing(
    number: signal.Signals, tone_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpus, out = f"tsv:{tone_corpus()}", tmp_path / "out"
    environment = os.environ | {"AUSCULT_CACHE": str(tmp_path / "cache")}
    killed = subprocess.Popen(command(corpus, out, "local:2"), env=environment)
    deadline = time.monotonic() + 120
    while not list((out / ".work").glob("probe-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(number)
    ended = killed.wait(60)
    assert ended != 0 or len(list((out / ".work").glob("probe-*"))) == 4  # it was faster
    done = subprocess.run(
        command(corpus, out, "local:2"), env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    whole = subprocess.run(
        command(corpus, tmp_path / "serial", "serial"),
        env=os.environ | {"AUSCULT_CACHE": str(tmp_path / "other")},
        capture_output=True,
        text=True,
    )
    ended, alone = (json.loads(run.stdout)["records"] for run in (done, whole))
    assert numbers(ended) == numbers(alone) and len(ended) > 8
    assert len(open_store(out).records()) == len(ended)


def test_threads_are_set_and_put_back(tone_corpus: Callable[..., Path], tmp_path: Path) -> None:
    import torch

    before = torch.get_num_threads()
    options: dict[str, Any] = {"probes": ["linear"], "max_epochs": 1, "baselines": False}
    corpus = f"tsv:{tone_corpus()}"
    plans = [
        studies.plan_probe("fbank", corpus, "keyword", threads=threads, **options)
        for threads in (1, 3)
    ]
    assert [plan.items[1].how["threads"] for plan in plans] == ["1", "3"]
    assert plans[0].items[1].key != plans[1].items[1].key
    for executor in (studies.Serial(), studies.Pool(2)):
        with executor.open(plans[1].desk):
            assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("name", ["local:0", "local:x", "cloud", "local", "local:99999"])
def test_executors_that_are_none(name: str, tone_corpus: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="local"):
        studies.plan_probe("fbank", f"tsv:{tone_corpus()}", "keyword", executor=name)
