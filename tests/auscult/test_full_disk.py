"""A disk that fills, or may not be written, at any moment of a command: a sentence, and on it goes.

Real file systems of a few kilobytes, mounted in memory, where whoever runs the tests may do so.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from auscult import whole_file
from auscult.analysis.spill import MapStack
from auscult.errors import UserError
from auscult.upstreams import load_upstream

Run = Callable[..., tuple[int, str, str]]
TINY = "random(hubert_tiny)"
VERBS: dict[str, tuple[str, ...]] = {
    "probe": ("-u", "toy", "-t", "keyword", "-t", "phone", "--probe", "linear"),
    "attention": ("-u", TINY, "--limit", "2"),
    "extract": ("-u", "toy"),
    "run": ("-u", "toy", "-t", "keyword_spotting", "--steps", "4", "batch_size=8", "save_step=2"),
}
MORE = {"probe": ("--max-epochs", "1", "--no-baselines"), "run": ("--no-baselines",)}
KILOBYTES = (8, 48, 120)
MANY = (4, 12, 16, 24, 32, 64, 80, 96, 104, 136, 144, 160, 176, 192, 208, 240, 280)
PLACES = ("out", "cache", "both")


class Disk:
    """A small file system in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, kilobytes: int) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", self.folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("nothing may be mounted here")

    def change(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    found = Disk(tmp_path / "disk")
    yield found
    found.unmount()


@pytest.fixture
def command(
    run: Run, toy: Any, monkeypatch: pytest.MonkeyPatch, tone_corpus: Callable[..., Path]
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs a verb on tones with folders for its output and its cache."""
    encoders = {"toy": toy, TINY: load_upstream(TINY)}
    monkeypatch.setattr("auscult.load", lambda spec, seed=0: encoders[spec])
    corpus = f"tsv:{tone_corpus()}"

    def call(verb: str, out: Path, cache: Path) -> tuple[int, str, str]:
        monkeypatch.setenv("AUSCULT_CACHE", str(cache))
        words = (*VERBS[verb], *MORE.get(verb, ()))
        return run(verb, "-c", corpus, *words, "--json", "--out", out)

    return call


def numbers(stdout: str) -> list[Any]:
    """Return what was measured, or for extraction how many files there are."""
    found = json.loads(stdout)
    rows = [[r["metric"], r["layer"], r["value"], r["low"]] for r in found.get("records", ())]
    return rows or [len(found["files"])]


def places(place: str, disk: Disk, elsewhere: Path) -> tuple[Path, Path]:
    """Return --out and the cache, of which one or both are on the disk."""
    out, cache = (disk.folder / "out", disk.folder / "cache")
    return {
        "out": (out, elsewhere / "cache"),
        "cache": (elsewhere / "out", cache),
        "both": (out, cache),
    }[place]


@pytest.mark.parametrize("sizes", [KILOBYTES, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_fills(
    verb: str, sizes: tuple[int, ...], command: Any, disk: Disk, tmp_path: Path
) -> None:
    status, stdout, stderr = command(verb, tmp_path / "out", tmp_path / "cache")
    assert status == 0, stderr
    clean = numbers(stdout)
    failures = 0
    for place in PLACES if len(sizes) > 3 else ("both",):
        for size in sizes:
            disk.mount(size)
            folders = places(place, disk, tmp_path / f"{place}{size}")
            status, stdout, stderr = command(verb, *folders)
            assert status in (0, 2) and "Traceback" not in stderr, stderr
            if status == 2:
                failures += 1
                sentence = stderr.strip().splitlines()[-1]
                assert f"{disk.folder}/" in sentence and " is full, so " in sentence
                assert "what was finished before is kept" in sentence
                assert "type the same command again" in sentence
            assert not list(disk.folder.rglob("*.part"))
            disk.change("size=64m")
            status, stdout, stderr = command(verb, *folders)
            assert status == 0, stderr
            assert numbers(stdout) == clean
            disk.unmount()
    assert failures >= 2


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("place", PLACES[:2])
def test_a_disk_that_may_not_be_written(
    verb: str, place: str, command: Any, disk: Disk, tmp_path: Path
) -> None:
    disk.mount(8000)
    disk.change("ro")
    folders = places(place, disk, tmp_path / "elsewhere")
    status, stdout, stderr = command(verb, *folders)
    assert (status, stdout) == (2, "") and "Traceback" not in stderr
    assert f"{disk.folder}/" in stderr and "is read-only, so nothing can be written" in stderr
    assert ("AUSCULT_CACHE" in stderr) == (place == "cache")
    disk.change("rw")
    status, stdout, stderr = command(verb, *folders)
    assert status == 0, stderr
    first = numbers(stdout)
    disk.change("ro")
    status, stdout, stderr = command(verb, *folders)
    if place == "out":
        assert status == 2 and "is read-only, so nothing can be written" in stderr
    else:  # a cache that has all is only read
        assert status == 0 and numbers(stdout) == first, stderr


@pytest.mark.parametrize("verb", VERBS)
def test_a_cache_that_is_no_folder(verb: str, command: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for cache in (file, file / "below"):
        status, _, stderr = command(verb, tmp_path / "out", cache)
        assert status == 2 and "Traceback" not in stderr
        assert f"{cache}" in stderr and "is not a folder, or lies below a file" in stderr
        assert "set AUSCULT_CACHE to another folder" in stderr
    assert file.read_text() == "mine"
    status, _, stderr = command(verb, tmp_path / "out", tmp_path / "missing" / "parents")
    assert status == 0, stderr


def test_what_a_killed_command_left_is_removed(command: Any, tmp_path: Path) -> None:
    out, cache = tmp_path / "out", tmp_path / "cache"
    assert command("probe", out, cache)[0] == 0
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = [
        folder / f".auscult-{whole_file._HOST}-{dead.pid}-{i}.part"
        for i, folder in enumerate((out, out / ".probe", cache / "features"))
    ]
    for path in left:
        path.write_bytes(b"half")
    whole_file._swept.clear()
    shutil.rmtree(cache / "features")
    (cache / "features").mkdir()
    left[2].write_bytes(b"half")
    for path in [*(out / ".probe").glob("*.npz"), *(out / ".work").iterdir()]:
        path.unlink()
    assert command("probe", out, cache)[0] == 0
    assert not [path for path in left if path.exists()]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("words", [("--version",), ("tasks",), ("tasks", "--json")])
def test_output_to_a_full_disk_is_a_sentence(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "auscult", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 2 and "auscult: the disk is full to which output" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_no_temporary_folder_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryFile", none)
    with pytest.raises(UserError, match="no temporary folder.*set TMPDIR"):
        MapStack(4, 100, memory_limit=0)
