"""Mutated files of every format are a value or a sentence: 2,000 of them; the tool makes more."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools" / "campaign"
MUTANTS = 2000


def tool(name: str) -> ModuleType:
    """Import a script of ``tools/campaign``, which is no package."""
    spec = importlib.util.spec_from_file_location(f"campaign_{name}", TOOLS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = tool("fuzz")
SHARE = -(-MUTANTS // len(fuzz.TARGETS))


def test_there_are_formats() -> None:
    assert len(fuzz.TARGETS) >= 25


@pytest.mark.parametrize("name", sorted(fuzz.TARGETS))
def test_mutants(name: str, tmp_path: Path) -> None:
    counts = fuzz.fuzz(name, SHARE, tmp_path / "files")
    assert sum(counts.values()) >= SHARE


@pytest.mark.parametrize("content", [b"0", b'"a"', b"null", b"[]", b"no JSON"])
def test_json_without_values_stays(content: bytes) -> None:
    assert fuzz.mutate(content, [fuzz.Edit("json", 0.0, 1, 0)]) == content


def test_the_fuzzer_finds_what_is_not_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that lets a traceback, a hang or memory through is found."""

    def build(folder: Path) -> None:
        (folder / "number.txt").write_text("12")

    def careless(folder: Path) -> int:
        return int((folder / "number.txt").read_text())

    def endless(folder: Path) -> None:
        while (folder / "number.txt").read_text() != "12":
            os.getpid()

    for read, error in ((careless, ValueError), (endless, AssertionError)):
        fuzz.TARGETS["careless"] = fuzz.Target(build, read)
        monkeypatch.setattr(fuzz, "SECONDS", 1)
        try:
            with pytest.raises((error, ExceptionGroup)):
                fuzz.fuzz("careless", 40, tmp_path / read.__name__)
        finally:
            del fuzz.TARGETS["careless"]
