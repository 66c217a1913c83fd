"""What is carried to a machine with a GPU: all that the check needs there, and no more."""

import importlib.util
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def carry() -> ModuleType:
    path = ROOT / "tools" / "gpu_carry.py"
    spec = importlib.util.spec_from_file_location("gpu_carry", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def made(
    carry: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """The folder without what pip would add, and what pip was asked for."""
    asked: list[str] = []

    def pip(words: list[str], **options: Any) -> Any:
        asked.extend(words)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", pip)
    monkeypatch.setattr(sys, "argv", ["gpu_carry", str(tmp_path / "carry")])
    carry.main()
    return tmp_path / "carry", asked


def test_what_is_missing_is_carried(made: tuple[Path, list[str]]) -> None:
    folder, asked = made
    for package in ("s3prl", "lhotse", "omegaconf", "tensorboardX", "jiwer", "soundfile"):
        there = (folder / package).is_dir()
        version = metadata.version(package)
        assert there or f"{package.lower()}=={version}" in asked, package
    assert (folder / "s3prl" / "upstream" / "baseline" / "fbank.yaml").is_file()
    assert list(folder.glob("lhotse-*.dist-info/METADATA"))  # its version is asked for
    for package in ("torch", "numpy", "scipy", "plotly", "matplotlib", "transformers"):
        assert not (folder / package).exists()
        assert not any(word.startswith(f"{package}==") for word in asked)
    assert not list(folder.rglob("*.so")) and not list(folder.rglob("__pycache__"))
    assert asked[asked.index("--python-version") + 1] == "3.12"
    assert asked[asked.index("--target") + 1] == str(folder)


def test_a_package_that_pip_cannot_install_is_said(
    carry: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "run", lambda words: SimpleNamespace(returncode=1))
    monkeypatch.setattr(sys, "argv", ["gpu_carry", str(tmp_path / "carry")])
    with pytest.raises(SystemExit, match="pip cannot install .*cffi=="):
        carry.main()
