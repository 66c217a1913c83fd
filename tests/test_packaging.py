"""What a user installs: one name in site-packages, and tests that pass against the wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build sdist and wheel from the committed and uncommitted files that git knows."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_the_wheel_holds_one_name_and_every_module(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    assert len(list(dist.glob("*.tar.gz"))) == 1
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"auscult"}
    rooms = (
        "cli",
        "corpora",
        "upstreams",
        "downstreams",
        "probing",
        "analysis",
        "results",
        "studies",
    )
    on_disk = {f"auscult/{p.relative_to(ROOT / 'auscult')}" for p in ROOT.glob("auscult/**/*.py")}
    for room in rooms:
        on_disk |= {f"auscult/{p.relative_to(ROOT)}" for p in ROOT.glob(f"{room}/**/*.py")}
    assert len(on_disk) > 40
    assert on_disk == {name for name in names if name.endswith(".py")}
    assert "auscult/py.typed" in names
    assert any(name.startswith("auscult/results/") and "html" in name for name in names)
    assert not any("records" in name for name in names)


@pytest.mark.slow
def test_the_installed_wheel_works_elsewhere(dist: Path, tmp_path: Path) -> None:
    """Every module is imported, and the verbs, studies, figures and pages are tried.

    The checkout passes all tests beside this one; a wheel differs by what it lacks.
    """
    (wheel,) = dist.glob("*.whl")
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--quiet"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True)
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = """
import pkgutil, auscult, auscult.probing as probing
print(auscult.__file__, probing.__file__)
for module in pkgutil.walk_packages(auscult.__path__, "auscult."):
    if not module.name.endswith("__main__"):
        __import__(module.name)
"""
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert found.count(str(site)) == 2, found
    tests = ROOT / "tests"
    tried = [*sorted(tests.glob("auscult/test_cli*.py"))]
    tried += [tests / room for room in ("studies", "results", "analysis", "probing")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"]
        + ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *map(str, tried)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
