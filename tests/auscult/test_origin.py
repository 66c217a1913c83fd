"""What kept work was made by: other code is another fingerprint."""

import sys
from pathlib import Path

import pytest

from auscult import origin


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
