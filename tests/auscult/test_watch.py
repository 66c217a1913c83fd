"""Audio that is swapped while it is in use."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from lhotse import Recording

from auscult import watch
from auscult.audio import read_samples
from auscult.corpora import read_files
from auscult.errors import UserError
from auscult.feature import audio_sha256


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "cache"))


def write(path: Path, seed: int) -> Path:
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000)
    soundfile.write(path, noise, 16_000)
    return path


def swap(path: Path, *, keep_time: bool) -> None:
    """Put other audio of the same size in the place of ``path``."""
    before = path.stat()
    write(path, 2)
    assert path.stat().st_size == before.st_size
    after = before.st_mtime_ns + (0 if keep_time else 1)
    os.utime(path, ns=(before.st_atime_ns, after))


@pytest.mark.parametrize("keep_time", [False, True])
def test_other_audio_of_equal_size_is_noticed_when_it_is_read(
    tmp_path: Path, keep_time: bool
) -> None:
    path = write(tmp_path / "x.wav", 1)
    (cut,) = read_files([path]).split("files")
    read_samples(cut)
    swap(path, keep_time=keep_time)
    for use in (read_samples, audio_sha256, lambda cut: watch.check_content([cut])):
        with pytest.raises(UserError, match=r"x\.wav changed while it was in use"):
            use(cut)


def test_what_changes_but_the_content_is_no_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", 1)
    (cut,) = read_files([path]).split("files")
    path.chmod(0o600)
    moved = path.rename(tmp_path / "y.wav")
    moved.rename(path)
    read_samples(cut)
    os.utime(path, ns=(1, 1))
    read_samples(cut)
    watch.check_content([cut])


def test_a_pipe_in_the_place_of_audio_is_not_waited_for(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", 1)
    (cut,) = read_files([path]).split("files")
    path.unlink()
    os.mkfifo(path)
    for use in (read_samples, lambda cut: watch.check_content([cut])):
        with pytest.raises(UserError, match=r"x\.wav changed|not a regular file"):
            use(cut)


def test_content_is_compared_though_every_stamp_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a file system whose times are coarse."""
    path = write(tmp_path / "x.wav", 1)
    monkeypatch.setattr(watch.Stamp, "of", lambda path: watch.Stamp(1, 1, 1))
    cut = Recording.from_file(path).to_cut()
    watch.check_content([cut])
    read_samples(cut)
    swap(path, keep_time=True)
    read_samples(cut)
    with pytest.raises(UserError, match=r"x\.wav changed while it was in use"):
        watch.check_content([cut])


def test_a_swap_before_a_command_starts_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "x.wav", 1)
    before = read_files([path]).sha256
    swap(path, keep_time=True)  # the scan is remembered, but not for these times
    assert read_files([path]).sha256 != before
