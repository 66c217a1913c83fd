"""Tables that other people can add to, and the wall around what files say."""

import math
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from auscult import registry
from auscult.errors import UserError
from auscult.foreign import Found, build, import_object, refuse_code
from auscult.registry import Table

ROWS = {"fbank": 1, "mfcc": 2}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table[int]:
    points = [
        EntryPoint("theirs", "math:pi", "auscult.upstreams"),
        EntryPoint("fbank", "math:tau", "auscult.upstreams"),
        EntryPoint("broken", "no_such_module:x", "auscult.upstreams"),
        EntryPoint("both", "math:e", "auscult.upstreams"),
        EntryPoint("both", "math:pi", "auscult.upstreams"),
        EntryPoint("odd", "???", "auscult.upstreams"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    return Table("upstream", ROWS, "auscult.upstreams")


def nobodys(kind: str = "task") -> Table[object]:
    return Table(kind, {}, "auscult.nobodys")


def test_ours_are_never_replaced_and_others_are_found(table: Table[int]) -> None:
    assert table.find("fbank").value == 1 and table.find("fbank").origin == ""
    assert table.find("theirs").value == pytest.approx(3.14159, abs=1e-4)
    assert table.find("theirs:a:b").rest == "a:b" and table.find("mfcc:x").rest == "x"
    assert table.is_foreign("theirs") and table.is_foreign("python")
    assert not table.is_foreign("fbank") and not table.is_foreign("nothing")
    with pytest.raises(UserError, match="Did you mean theirs"):
        table.find("their")


def test_the_list_says_what_cannot_be_used(table: Table[int]) -> None:
    listed = [(row.name, row.problem) for row in table.listed()]
    problems = dict(listed)
    assert len(listed) == 6 and problems["theirs"] == ""
    assert "one of ours, which stays: python:math:tau" in problems["fbank"]
    assert "no such module" in problems["broken"] and "no such module" in problems["odd"]
    assert "two packages" in problems["both"]


def test_a_broken_package_is_named_and_stops_nothing_else(table: Table[int]) -> None:
    with pytest.raises(
        UserError, match="broken of no_such_module:x, no package cannot be imported"
    ):
        table.find("broken")
    with pytest.raises(UserError, match=r"odd of \?\?\?, no package cannot be imported"):
        table.find("odd")
    with pytest.raises(UserError, match="both bring the upstream 'both'; say which"):
        table.find("both")
    assert table.find("mfcc").value == 2


def test_files_and_modules(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text("class A:\n    b = 5\n_c = 1\n")
    found = nobodys().find(f"python:{tmp_path / 'my.py'}:A.b")
    assert found.value == 5 and found.origin.startswith("my.py, sha256 ") and not found.rest
    (tmp_path / "my.py").write_text("class A:\n    b = 6\n")
    again = nobodys().find(f"python:{tmp_path / 'my.py'}:A.b:models/x.pt")
    assert again.value == 6 and again.origin != found.origin and again.code != found.code
    assert again.rest == "models/x.pt" and again.name == f"python:{tmp_path / 'my.py'}:A.b"
    assert nobodys().find("python:numpy:pi").origin.startswith("numpy==")
    assert nobodys().find("python:math:pi").origin.startswith("math, sha256 ")


def test_what_a_file_imports_from_beside_it_counts(tmp_path: Path) -> None:
    (tmp_path / "beside_a.py").write_text("import beside_b\n")
    (tmp_path / "beside_b.py").write_text("x = 1\n")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/inner.py").write_text("y = 1\n")
    text = "from beside_a import beside_b\nimport deep.inner\ndef f(): return beside_b.x\n"
    (tmp_path / "my.py").write_text(text)
    name = f"python:{tmp_path / 'my.py'}:f"
    before = import_object(name, "task")
    assert before.value() == 1
    for changed in ("beside_b.py", "deep/inner.py"):
        (tmp_path / changed).write_text("x = y = 2\n")
        fresh = f"from auscult.foreign import import_object as i; print(i({name!r}, 'task').code)"
        assert _python(fresh) != before.code
        before = Found(None, "", code=_python(fresh))


def _python(code: str) -> str:
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_two_files_beside_two_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twin_of_another.py").write_text(f"x = {number}\n")
        text = f"import twin_of_another\nnumber = {number}\n"
        (tmp_path / folder / "my.py").write_text(text)
    assert import_object(f"python:{tmp_path}/one/my.py:number", "task").value == 0
    with pytest.raises(UserError, match="twin_of_another, which is .*one.*give one"):
        import_object(f"python:{tmp_path}/two/my.py:number", "task")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("python", "expected python:FILE.py:NAME or python:MODULE:NAME"),
        ("python:x", "expected python:FILE.py:NAME or python:MODULE:NAME"),
        ("python:my.py", "expected python:FILE.py:NAME"),
        ("python::", "expected python:FILE.py:NAME"),
        ("python:nowhere.py:A", "cannot be read: No such file"),
        ("python:no_such_module:A", "ModuleNotFoundError"),
        ("python:..:A", "cannot be imported"),
        ("python:math:no", "math has no no; it has acos"),
        (f"python:{'x' * 300}.py:A", "cannot be read: File name too long"),
        ("python:\0.py:A", "cannot be read"),
    ],
)
def test_what_cannot_be_imported(name: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        nobodys().find(name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("\n1 / 0\n", r"ZeroDivisionError: division by zero \(my.py, line 2\)"),
        ("x = 1\ndef f(:\n", r"SyntaxError.*\(my.py, line 2\)"),
        ("import no_such_thing\n", r"ModuleNotFoundError.*\(my.py, line 1\)"),
        ("raise SystemExit(3)\n", "cannot be imported: it ends Python"),
    ],
)
def test_a_file_with_a_mistake(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(text)
    with pytest.raises(UserError, match=sentence):
        nobodys().find(f"python:{tmp_path / 'my.py'}:A")


def test_a_factory_is_given_what_it_takes() -> None:
    def plain() -> str:
        return "plain"

    def takes(place: str, *, subnet: str = "", seed: int = 0) -> tuple[object, ...]:
        return place, subnet, seed

    def raises() -> None:
        raise KeyError("x")

    assert build(Found(plain, "p"), subnet=None) == "plain"
    assert build(Found(takes, "p"), "here", subnet="a", seed=3) == ("here", "a", 3)
    with pytest.raises(UserError, match="p takes no subnet, and 'a' was given"):
        build(Found(plain, "p"), subnet="a")
    with pytest.raises(UserError, match=r"python:x:takes is called as takes\(\), and takes"):
        build(Found(takes, "python:x:takes"))
    with pytest.raises(UserError, match=r"p cannot be built: KeyError: 'x'"):
        build(Found(raises, "p"))
    for made in (plain(), 3, Table("a", {}, "b")):
        with pytest.raises(UserError, match="made already; expected a class or a function"):
            build(Found(made, "p"))


@pytest.mark.parametrize(
    "address", ["python:a.py:B", "random(python:a:B)", "x:Python :a:B@1", "pyt\thon\n:a.py:B"]
)
def test_the_wall(address: str) -> None:
    with pytest.raises(UserError, match="names Python code"):
        refuse_code(address, "training.json")
    assert refuse_code("hf:models/python-x", "training.json") == "hf:models/python-x"


@pytest.mark.parametrize("points", ["thing\n", "th\udce9ing = math:pi\n", "thing = math:pi\n"])
@pytest.mark.parametrize("about", ["", "\udcff\udcfe", None])
def test_a_torn_package_is_named_and_hides_no_other(
    points: str, about: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in {"torn": points, "whole": "mine = math:e\n"}.items():
        folder = tmp_path / f"{name}-2.0.dist-info"
        folder.mkdir()
        text = f"[auscult.things]\n{text}"
        (folder / "entry_points.txt").write_text(text, "utf-8", "surrogateescape")
        said = about if name == "torn" else "Metadata-Version: 2.1\nName: whole\nVersion: 2.0\n"
        if said is not None:
            (folder / "METADATA").write_text(said, "utf-8", "surrogateescape")
    monkeypatch.syspath_prepend(str(tmp_path))
    table: Table[object] = Table("thing", {}, "auscult.things")
    rows = {row.origin: row for row in table.listed()}
    assert rows["whole==2.0"].name == "mine" and table.find("mine").value == math.e
    assert any(origin.startswith("torn-2.0.dist-info") for origin in rows)
