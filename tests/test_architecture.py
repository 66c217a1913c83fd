"""Who may import whom. Edit ALLOWED on purpose, never to silence a failure."""

import ast
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDER_OF: dict[str, str] = SETUPTOOLS["package-dir"]  # import name -> folder
ROOMS = ("corpora", "upstreams", "downstreams", "probing", "analysis", "results")
ALLOWED: dict[str, set[str]] = {"auscult": set(), **{room: {"auscult"} for room in ROOMS}}
ALLOWED["studies"] = {"auscult", *ROOMS}  # the composition root
ALLOWED["cli"] = {"auscult", "studies", "results"}
FACES = ("auscult/__init__.py", "auscult/__main__.py")  # lazy names from everywhere; the verbs
BRIDGES = ("auscult/bridge.py", "auscult/head.py")  # the only modules that may import s3prl


def names_imported(path: Path) -> set[str]:
    """Every absolute name that ``path`` imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path) -> set[str]:
    """Folders of the rooms that ``path`` imports."""
    parts = [name.split(".") for name in names_imported(path)]
    return {FOLDER_OF.get(".".join(p[:2]), "auscult") for p in parts if p[0] == "auscult"}


FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


def test_there_are_files_to_look_at() -> None:
    assert len(FILES) >= 30


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_direction(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    if relative in FACES:
        return
    room = relative.split("/")[0]
    forbidden = rooms_imported(path) - ALLOWED[room] - {room}
    assert not forbidden, f"{relative} (room {room!r}) must not import {sorted(forbidden)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_the_bridge_imports_s3prl(path: Path) -> None:
    relative = path.relative_to(ROOT).as_posix()
    found = {name for name in names_imported(path) if name.split(".")[0] == "s3prl"}
    assert relative in BRIDGES or not found, f"{relative} imports {sorted(found)}: use {BRIDGES}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_imported_under_their_full_name(path: Path) -> None:
    """`import probing` works in a checkout only, and makes a second copy of every class."""
    bare = {name for name in names_imported(path) if name.split(".")[0] in ROOMS}
    assert not bare, f"{path.relative_to(ROOT)} imports {sorted(bare)}: write auscult. in front"


def test_the_guard_sees_a_violation(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(
        "def f():\n    from auscult.upstreams import load_upstream\n    import s3prl.hub\n"
    )
    assert rooms_imported(bad) == {"upstreams"}
    assert "s3prl.hub" in names_imported(bad)
    bad.write_text("import os\nfrom pathlib import Path\nPath('x').glob('*')\nos.walk('x')\n")
    assert walks(bad) == {"Path('x').glob", "os.walk"}


OWN_FOLDERS = (  # where what we wrote ourselves is listed; people's folders go through tree.py
    "auscult/kept.py",
    "auscult/tree.py",
    "auscult/whole_file.py",
    "auscult/snapshot.py",
    "studies/supernet.py",
    "upstreams/hubert/network.py",
    "upstreams/lighthubert/export.py",
)
WALKS = {"rglob", "glob", "iglob", "iterdir", "walk", "fwalk", "listdir", "scandir"}


def walks(path: Path) -> set[str]:
    """The calls in ``path`` that list a folder, whatever they are called on but our own tree."""
    calls = [
        node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    return {
        f"{ast.unparse(call.value)}.{call.attr}"
        for call in calls
        if isinstance(call, ast.Attribute)
        and call.attr in WALKS
        and ast.unparse(call.value) != "ast"
    }


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_folders_of_people_are_walked_by_the_one_walk(path: Path) -> None:
    """pathlib's rglob enters no linked folder, and takes hidden files."""
    relative = path.relative_to(ROOT).as_posix()
    found = walks(path)
    assert relative in OWN_FOLDERS or not found, f"{relative} calls {sorted(found)}: auscult.tree"


def test_text_of_people_is_read_by_the_one_reader() -> None:
    """``Path.read_text`` raises without the file's name, and reads a mark as a character."""
    readers = [path for path in FILES if path.relative_to(ROOT).parts[0] == "corpora"]
    calls = ("read_text", "open")
    for path in readers:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in calls or path.name == "riff.py", path


def test_rooms_and_package_table_agree() -> None:
    assert set(ALLOWED) == set(FOLDER_OF.values())
    on_disk = {
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts))
        for name, folder in FOLDER_OF.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert on_disk == set(SETUPTOOLS["packages"])


def test_every_module_imports() -> None:
    count = 0
    for name in SETUPTOOLS["packages"]:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(package.__path__, f"{name}."):
            importlib.import_module(module.name)
            count += 1
    assert count >= 25  # a loop that visits nothing passes too


HEAVY = ("torch", "numpy", "lhotse", "transformers", "s3prl", "pandas", "matplotlib", "sqlalchemy")


@pytest.mark.parametrize("statement", ["import auscult", "import auscult.cli.app"])
def test_nothing_heavy_is_imported_at_start(statement: str) -> None:
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


LINES_OF_A_FUNCTION, LINES_OF_A_FILE = 60, 450  # a function's without signature and docstring


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_and_files_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES_OF_A_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            size = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            assert size <= LINES_OF_A_FUNCTION, node.name
