"""What kept work was made by: other code is another fingerprint."""

import importlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import auscult
from auscult import origin
from auscult.contracts import Waveforms


def test_other_code_of_a_module_that_is_imported_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that is edited while a notebook goes on."""
    package = tmp_path / "ours"
    package.mkdir()
    sources = {
        "__init__": "from ours import face\n",
        "a": "def f():\n    from .b import g\n",
        "b": "import ours.c\n",
        "c": "x = 1\n",
        "face": "",
        "other": "",
    }

    def written(**changed: str) -> str:
        for name, text in {**sources, **changed}.items():
            (package / f"{name}.py").write_text(text)
        return origin.code_of("ours.a")

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(origin, "PACKAGE", "ours")
    monkeypatch.setattr(origin, "_SILENT", {"ours"})
    before = written()
    assert written() == before
    assert written(c="x = 2\n") != before, "imported through another module, inside a function"
    assert written(other="x = 2\n", face="y = 3\n") == before
    for name in [name for name in sys.modules if name.split(".")[0] == "ours"]:
        del sys.modules[name]


def test_an_encoder_counts_with_its_modules_and_not_with_all_others() -> None:
    found = origin._reached(frozenset({"auscult.upstreams.spectral"}))
    assert "auscult.contracts" in found and "auscult.upstreams.huggingface.upstream" not in found
    assert not any(name.startswith(("auscult.cli", "auscult.results")) for name in found)


@pytest.fixture
def theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[..., str]:
    """Return a function that writes modules of somebody's package and gives the code of one."""
    name = f"theirs_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    clock = itertools.count(10**9)

    def written(module: str = "encoder", **sources: str) -> str:
        for one, text in sources.items():
            path = tmp_path / name / f"{one}.py"
            path.write_text(text.replace("PKG", name))
            moment = next(clock)
            os.utime(path, (moment, moment))
        importlib.invalidate_caches()
        return origin.code_of(f"{name}.{module}")

    written.name = name  # type: ignore[attr-defined]
    return written


def test_what_stands_around_a_module_of_people_counts(theirs: Callable[..., str]) -> None:
    """A package runs when a module of it is imported, and may have the names that it imports."""
    codes = [
        theirs(__init__="GAIN = 1\n", part="", encoder="from PKG import part, GAIN\n"),
        theirs(__init__="GAIN = 2\n"),
        theirs(part="x = 1\n"),
        theirs(encoder="import PKG.part\n"),
        theirs(__init__="GAIN = 3\n"),
        theirs(helper="", encoder="import importlib\nx = importlib.import_module('PKG.helper')\n"),
        theirs(helper="x = 2\n"),
        theirs(encoder="import importlib\nx = importlib.import_module('.helper', __package__)\n"),
        theirs(helper="x = 3\n"),
    ]
    assert len(set(codes)) == len(codes)


def test_another_version_of_a_library_that_people_import_is_another_code(
    theirs: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours are in the records; nobody but their own code names theirs."""
    place = tmp_path / "site-packages"
    library = f"lib_{theirs.name}"  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(place))

    def install(version: str) -> str:
        about = place / f"{library}-{version}.dist-info"
        shutil.rmtree(place, ignore_errors=True)
        about.mkdir(parents=True)
        (place / f"{library}.py").write_text("def f():\n    from . import hidden\n")
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {library}\nVersion: {version}\n"
        )
        (about / "top_level.txt").write_text(f"{library}\n")
        importlib.invalidate_caches()
        origin._packages.cache_clear()
        return theirs(__init__="", encoder=f"import {library}\n")

    try:
        assert install("1.0") == install("1.0") != install("1.1")
    finally:
        origin._packages.cache_clear()


def test_what_runs_is_what_was_imported(
    theirs: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    """An edit of a loaded module changes nothing that runs here, until it is loaded anew."""
    name = theirs.name  # type: ignore[attr-defined]
    theirs(__init__="", helper="x = 1\n", encoder="import PKG.helper\n")
    helper = importlib.import_module(f"{name}.helper")
    before = theirs()
    with caplog.at_level("WARNING"):
        assert theirs(helper="x = 2\n") == before == theirs()
    assert helper.x == 1 and len(caplog.records) == 1
    assert "helper.py changed since it was imported" in caplog.text
    importlib.reload(helper)
    after = theirs()
    assert helper.x == 2 and after != before
    Path(str(helper.__file__)).unlink()
    assert theirs() == after
    for one in [one for one in sys.modules if one.startswith(name)]:
        del sys.modules[one]


CELLS = """
import sys, torch
from torch import nn
from auscult.origin import code_of
BEFORE = '''
import {helper}
from {helper} import other
GAIN = 1.0
TABLE = torch.arange(3.0)
def scale(x, by=2.0):
    return x * by * GAIN
class Inner:
    shift = 1
class Mine(nn.Module):
    power = 2
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
    @property
    def level(self):
        return 1
    def forward(self, waves):
        return scale(self.layer(waves)) + Inner.shift + TABLE[0] + {helper}.value() + other
def hook_of(head):
    return lambda module, args, output: output * head
'''
def code(old="", new="", after=""):
    exec(BEFORE.replace(old, new) if old else BEFORE, globals())
    global encoder
    encoder = Mine()
    exec(after, globals())
    return code_of(*encoder.modules())
for old, new, after in [
    ("", "", ""),
    ("", "", ""),
    ("GAIN = 1.0", "GAIN = 3.0", ""),
    ("by=2.0", "by=3.0", ""),
    ("x * by", "x + by", ""),
    ("shift = 1", "shift = 2", ""),
    ("arange(3.0)", "arange(1.0, 4.0)", ""),
    ("power = 2", "power = 3", ""),
    ("return 1", "return 2", ""),
    ("", "", "encoder.register_forward_hook(hook_of(1))"),
    ("", "", "encoder.register_forward_hook(hook_of(2))"),
    ("", "", "encoder.layer.register_forward_pre_hook(lambda module, args: args)"),
    ("", "", "encoder.forward = lambda waves: waves"),
]:
    print(code(old, new, after))
"""


def test_all_that_a_cell_of_a_notebook_names_counts(tmp_path: Path) -> None:
    """Functions, constants and modules of other cells, and what is hooked onto an encoder."""

    def codes(value: str) -> list[str]:
        (tmp_path / "helper_of_cells.py").write_text(f"other = 1\ndef value(): return {value}\n")
        words = [sys.executable, "-c", CELLS.replace("{helper}", "helper_of_cells")]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first, second, *others = codes("1")
    assert first == second and len({first, *others}) == 1 + len(others) == 12
    assert codes("2")[0] != first


@pytest.mark.parametrize("address", ["tiny_hubert", "tiny_w2v_bert", "log_mel"])
def test_a_pass_through_an_encoder_changes_no_code(address: str) -> None:
    encoder = auscult.load(address)
    before = origin.code_of(*encoder.modules())
    with torch.no_grad():
        encoder(Waveforms.of([torch.randn(8000)]))
    assert origin.code_of(*encoder.modules()) == before


class Steer:
    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, module: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return output * self.by


def test_what_an_object_that_was_hooked_on_holds_counts() -> None:
    def code(*hooks: Callable[..., object], **put: object) -> str:
        layer = torch.nn.Linear(2, 2)
        for hook in hooks:
            layer.register_forward_hook(hook)
        for name, value in put.items():
            setattr(layer, name, value)
        return origin.code_of(layer)

    found = [code(), code(Steer(1.0)), code(Steer(2.0)), code(Steer(2.0).__call__, Steer(3.0))]
    found += [code(Steer(2.0).__call__), code(act=torch.relu), code(act=torch.tanh)]
    assert len(set(found)) == len(found)
    assert code(Steer(2.0)) == found[2] and code(act=torch.relu) == found[5]


def test_what_does_not_parse_is_what_it_says(theirs: Callable[..., str]) -> None:
    encoder = "def f():\n    from PKG import helper\n    from ....... import nothing\n"
    found = theirs(__init__="", helper="print 'of another Python'\n", encoder=encoder)
    assert found != theirs(helper="print 'of yet another'\n")
