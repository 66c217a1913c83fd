"""`auscult results` and `auscult report`, as typed."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from auscult.cli import main
from auscult.record import Artifact, Record
from auscult.results import open_store

Auscult = Callable[..., tuple[int, str, str]]


@pytest.fixture
def auscult(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Auscult:
    """Run a command line; return exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["auscult", *words])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def store(records: list[Record], tmp_path: Path) -> str:
    some = [r for r in records if r.probe == "linear"]
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in some if r.task == "phone39"]
    open_store(tmp_path / "out").add(some + dev)
    return str(tmp_path / "out")


def test_ls(auscult: Auscult, store: str) -> None:
    code, out, _ = auscult("results", "ls", store)
    assert code == 0
    assert "234 records" not in out and "records in" in out
    line = next(x for x in out.splitlines() if "random(hubert_base)" in x and "phone39" in x)
    assert "13" in line and "0.502 [0.472, 0.532]" in line and "*" not in line
    line = next(x for x in out.splitlines() if "random(hubert_base)" in x and "keyword" in x)
    assert "0.602 [0.542, 0.662]*" in line  # no dev scores: picked on test, and marked


def test_ls_json(auscult: Auscult, store: str) -> None:
    code, out, err = auscult("results", "ls", store, "--json", "--quiet")
    assert (code, err) == (0, "")
    groups = json.loads(out)["groups"]
    assert len(groups) == 3 * 2 * 2
    assert groups[0].keys() >= {"upstream", "corpus", "task", "metric", "layers", "value"}


def test_show(auscult: Auscult, store: str) -> None:
    code, out, _ = auscult("results", "show", store, "--task", "keyword", "--metric", "accuracy")
    assert code == 0
    assert "keyword on demo (synthetic speech), test: accuracy, linear" in out
    assert "0.602 [0.542, 0.662]" in out and "phone39" not in out
    assert "majority class 0.100" in out


def test_show_json_is_records(auscult: Auscult, store: str, records: list[Record]) -> None:
    code, out, _ = auscult("results", "show", store, "--upstream", "fbank", "--json")
    assert code == 0
    found = [Record.from_dict(flat) for flat in json.loads(out)["records"]]
    assert {r.upstream for r in found} == {"fbank"}
    assert all(r in records for r in found)  # and none of dev


def test_show_has_differences_where_there_are_any(
    auscult: Auscult, store: str, make_difference: Callable[..., Artifact]
) -> None:
    title = "Differences of accuracies, on the same resamples of speakers"
    before = auscult("results", "show", store)[1]
    assert title not in before
    open_store(store).add([], [make_difference(), make_difference(task="keyword", value=-0.1)])
    code, out, _ = auscult("results", "show", store)
    assert code == 0 and title in out
    lines = [line for line in out.splitlines() if "hf:hubert-base-ls960" in line]
    assert any("phone39 on" in x and "6 and 0" in x and "+0.200 [+0.100" in x for x in lines)
    assert any("keyword on" in x and "-0.100 [" in x for x in lines)
    assert title not in auscult("results", "show", store, "--metric", "macro_accuracy")[1]
    assert title not in auscult("results", "show", store, "--upstream", "fbank")[1]
    assert "-0.100" not in auscult("results", "show", store, "--task", "phone39")[1]


def test_differences_stand_beside_records_in_json_and_change_no_export(
    auscult: Auscult, store: str, make_difference: Callable[..., Artifact]
) -> None:
    exported = auscult("results", "export", store)[1]
    before = json.loads(auscult("results", "show", store, "--json", "--quiet")[1])
    open_store(store).add([], [make_difference()])
    after = json.loads(auscult("results", "show", store, "--json", "--quiet")[1])
    assert before.pop("margins") == []
    (margin,) = after.pop("margins")
    assert after == before
    names = ("upstream", "over", "task", "probe", "layer", "over_layer", "value", "low", "high")
    found = [margin[name] for name in names]
    encoders = ["hf:/models/hubert-base-ls960", "random(hubert_base)"]
    assert found == [*encoders, "phone39", "linear", 6, 0, 0.2, 0.1, 0.3]
    assert auscult("results", "export", store)[1] == exported


def test_names_in_brackets_are_not_markup(
    auscult: Auscult, records: list[Record], tmp_path: Path
) -> None:
    open_store(tmp_path).add([replace(records[0], upstream="hf:x[bold]", task="t[/red]")])
    code, out, _ = auscult("results", "show", str(tmp_path))
    assert code == 0 and "hf:x[bold]" in out and "t[/red]" in out


def test_export_to_stdout_and_to_a_file(auscult: Auscult, store: str, tmp_path: Path) -> None:
    code, out, err = auscult("results", "export", store)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert (code, err) == (0, "") and {row["split"] for row in rows} == {"test", "dev"}
    path = tmp_path / "new" / "table.tex"
    words = ("results", "export", store, "--format", "latex", "--out", str(path))
    code, out, err = auscult(*words)
    assert (code, out) == (0, "") and "written to" in err
    assert r"\toprule" in path.read_text()
    assert auscult(*words, "--quiet")[1:] == ("", "")


def test_report(auscult: Auscult, store: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    code, out, _ = auscult("report", store, "--out", str(path))
    assert code == 0 and str(path) in out
    assert path.read_text().lstrip().startswith("<!doctype html>")
    code, out, err = auscult("report", store, "--out", str(path), "--json", "--quiet")
    assert json.loads(out)["report"] == str(path) and err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["results", "ls", "nowhere"], "There is no store nowhere/results.sqlite"),
        (["results", "show", "STORE", "--task", "phon"], "No record in"),
        (["results", "export", "STORE", "--format", "word"], "Unknown format 'word'. Known: csv"),
        (["report", "nowhere"], "There is no store nowhere/results.sqlite"),
        (["report"], "Missing argument"),
        (["results", "ls", "STORE/results.sqlite.png"], "There is no store"),
    ],
)
def test_mistakes_are_one_sentence(
    auscult: Auscult, store: str, words: list[str], message: str
) -> None:
    code, out, err = auscult(*(word.replace("STORE", store) for word in words))
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize("words", [("ls",), ("show", "--task", "none"), ("show",)])
def test_a_database_password_is_not_printed(
    auscult: Auscult,
    records: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
) -> None:
    found = open_store(tmp_path)
    found.add(records[:1])
    monkeypatch.setattr("auscult.results.open_store", lambda where: found)
    verb, *rest = words
    _, out, err = auscult("results", verb, "postgresql://me:secret@host/db", *rest)
    assert "secret" not in out + err
    assert rest == [] or "No record in postgresql://me:***@host/db fits" in err
    assert verb != "ls" or "1 records in postgresql://me:***@host/db" in out


def test_ls_says_the_same_of_many_rows_as_of_few(
    auscult: Auscult, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = auscult("results", "ls", store)[1].splitlines()
    monkeypatch.setattr("auscult.cli.output.MANY_ROWS", 3)
    many = auscult("results", "ls", store)[1].splitlines()
    assert len(many) == 3 + 12 and few[0].strip() == many[0]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in few if "│" in line]
    assert ["  ".join(cell for cell in row if cell).split() for row in cells] == [
        line.split() for line in many[3:]
    ]


def test_ls_takes_time_in_proportion(
    auscult: Auscult, records: list[Record], tmp_path: Path
) -> None:
    """Two thousand curves, each of which once looked at each other one."""
    linear = [r for r in records if (r.probe, r.metric, r.seed) == ("linear", "accuracy", 0)]
    some = [r for r in linear if r.task == "phone39" and r.layer in (1, 2)][:2]
    many = [replace(r, upstream=f"hf:{i:04}") for i in range(1000) for r in some]
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in many]
    open_store(tmp_path / "many").add(many + dev)
    code, out, _ = auscult("results", "ls", str(tmp_path / "many"))
    assert code == 0 and len(out.splitlines()) == 3 + 1000 and "*" not in out
