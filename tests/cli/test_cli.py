"""What holds for every verb: exit codes, one sentence, nothing lost."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer

from auscult.cli import demo
from auscult.cli.app import app

Run = Callable[..., tuple[int, str, str]]
VERBS = ("attention", "corpora", "demo", "extract", "probe", "report", "results", "run")


def interrupt(*args: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_is_130_and_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("auscult.studies.contents.check_corpus", interrupt)
    status, _, stderr = run("corpora", "demo")
    assert status == 130 and "interrupted; the same command goes on from here" in stderr


def test_a_torchaudio_of_another_torch_is_a_sentence(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: Any, **options: Any) -> None:
        raise OSError("Could not load this library: /site/torchaudio/lib/libtorchaudio.so")

    monkeypatch.setattr("auscult.studies.contents.check_corpus", load)
    status, _, stderr = run("corpora", "demo")
    assert status == 2 and "torch 2." in stderr and "pip install 'torch==" in stderr


def test_an_unknown_option_is_status_2(run: Run) -> None:
    status, _, stderr = run("probe", "--upstraem", "fbank")
    assert status == 2 and "No such option" in stderr


def numbers_of(verbs: typer.Typer | None, *words: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield each option that takes a whole number, after its verb."""
    assert verbs is not None
    for group in verbs.registered_groups:
        yield from numbers_of(group.typer_instance, *words, str(group.name))
    for command in verbs.registered_commands:
        hints = get_type_hints(command.callback, include_extras=True)
        for name, hint in hints.items():
            kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
            if kind in (int, int | None):
                yield (*words, str(command.name)), f"--{name.replace('_', '-')}"


NUMBERS = list(numbers_of(app))


def test_there_are_numbers_to_try() -> None:
    assert len(NUMBERS) > 15 and (("pretrain",), "--seed") in NUMBERS


@pytest.mark.parametrize(
    ("verb", "option"), NUMBERS, ids=lambda x: x if isinstance(x, str) else " ".join(x)
)
@pytest.mark.parametrize("number", ["9" * 23, "9" * 5000, "-1", "1e3", "nan"], ids=lambda x: x[:9])
def test_absurd_numbers_are_a_sentence(
    verb: tuple[str, ...], option: str, number: str, run: Run
) -> None:
    status, _, stderr = run(*verb, f"{option}={number}")
    assert status == 2 and "Traceback" not in stderr
    assert ("Invalid value for" in stderr and option in stderr) or "Missing" in stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_a_runnable_example(verb: str, run: Run) -> None:
    status, stdout, _ = run(verb, *(["show"] if verb == "results" else []), "--help")
    assert status == 0 and f"auscult {verb}" in stdout


@pytest.mark.parametrize(
    "words",
    [
        ("probe", "-u", "fbank", "-c", "demo", "-t", "phone"),
        ("attention", "-u", "random(hubert_tiny)", "-c", "demo"),
        ("run", "-u", "fbank", "-c", "demo", "-t", "keyword_spotting"),
        ("extract", "-u", "fbank", "x.wav"),
        ("demo",),
    ],
)
def test_an_out_that_cannot_be_written_is_found_first(
    words: tuple[str, ...], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("auscult.corpora.load_corpus", interrupt)  # 130 if it comes that far
    (tmp_path / "file").write_text("in the way")
    status, _, stderr = run(*words, "--out", tmp_path / "file" / "out")
    assert status == 2 and "file" in stderr and "Traceback" not in stderr


@pytest.mark.slow
def test_demo_runs_its_steps_and_prints_the_report_last(
    run: Run, tone_corpus: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("probe", "-u", "fbank", "-c", f"tsv:{tone_corpus()}", "-t", "sex", "--no-baselines")
    monkeypatch.setattr(demo, "STEPS", (demo.Step("One", "one", (*words, "--max-epochs", "1")),))
    status, stdout, stderr = run("demo", "--out", tmp_path / "d")
    assert status == 0, stderr
    assert stdout.rstrip().splitlines()[-1] == str((tmp_path / "d" / "report.html").resolve())
    assert (tmp_path / "d" / "report.html").stat().st_size > 1_000_000


def test_demo_stops_where_a_step_does(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", (demo.Step("One", "one", ("corpora", "nosuch:x")),))
    status, _, stderr = run("demo", "--out", tmp_path / "d")
    assert status == 2 and "The demo stopped" in stderr


def test_python_dash_m_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "auscult", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("0.")
