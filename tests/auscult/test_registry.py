"""Tables that other people can add to, and the wall around what files say."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from auscult import registry
from auscult.errors import UserError
from auscult.registry import Table, refuse_code

ROWS = {"fbank": 1, "mfcc": 2}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table[int]:
    points = [
        EntryPoint("theirs", "math:pi", "auscult.upstreams"),
        EntryPoint("fbank", "math:tau", "auscult.upstreams"),
        EntryPoint("broken", "no_such_module:x", "auscult.upstreams"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return Table("upstream", ROWS)


def test_ours_are_never_replaced_and_others_are_found(table: Table[int]) -> None:
    assert table.find("fbank").value == 1 and table.find("fbank").origin == ""
    assert table.find("theirs").value == pytest.approx(3.14159, abs=1e-4)
    assert [row.name for row in table.listed()] == ["fbank", "mfcc", "broken", "theirs"]
    with pytest.raises(UserError, match="Did you mean theirs"):
        table.find("their")


def test_a_broken_package_is_named_and_stops_nothing_else(table: Table[int]) -> None:
    with pytest.raises(UserError, match="broken of no_such_module:x cannot be imported"):
        table.find("broken")
    assert table.find("mfcc").value == 2


def test_files_and_modules(tmp_path: Path) -> None:
    table: Table[object] = Table("task", {})
    (tmp_path / "my.py").write_text("class A:\n    b = 5\n_c = 1\n")
    found = table.find(f"python:{tmp_path / 'my.py'}:A.b")
    assert found.value == 5 and found.origin.startswith("my.py, sha256 ")
    (tmp_path / "my.py").write_text("class A:\n    b = 6\n")
    again = table.find(f"python:{tmp_path / 'my.py'}:A.b")
    assert again.value == 6 and again.origin != found.origin
    assert table.find("python:numpy:pi").origin.startswith("numpy==")
    assert table.find("python:math:pi").origin == "math"


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("python:x", "expected python:MODULE:NAME"),
        ("python:nowhere.py:A", "cannot be read: No such file"),
        ("python:no_such_module:A", "ModuleNotFoundError"),
        ("python:math:no", "math has no no; it has"),
    ],
)
def test_what_cannot_be_imported(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Table("task", {}).find(name)


def test_a_file_with_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("1 / 0\n")
    with pytest.raises(UserError, match="ZeroDivisionError.*mend"):
        Table("task", {}).find(f"python:{tmp_path / 'my.py'}:A")
    table: Table[object] = Table("task", {}, expected=dict)
    with pytest.raises(UserError, match="is a float; expected a dict"):
        table.find("python:math:pi")


@pytest.mark.parametrize("address", ["python:a.py:B", "random(python:a:B)", "x:Python :a:B@1"])
def test_the_wall(address: str) -> None:
    with pytest.raises(UserError, match="names Python code"):
        refuse_code(address, "training.json")
    assert refuse_code("hf:models/python-x", "training.json") == "hf:models/python-x"
