"""`auscult extract` as a user types it: one file for each utterance, by a name of its own."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auscult.corpora import read_files, read_folder
from auscult.errors import UserError
from auscult.studies.extracted import paths_of

Command = Callable[..., tuple[int, str, str]]


def write(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(str(path).encode())).uniform(-0.5, 0.5, 4800)
        soundfile.write(path, noise, 16_000)


def ids(paths: list[Path]) -> list[str]:
    return [cut.id for cut in read_files(paths).split("files")]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CACHE", str(tmp_path / "cache"))


def test_files_of_one_name_are_told_apart(tmp_path: Path, run: Command) -> None:
    files = [tmp_path / "in" / name for name in ("a/x.flac", "b/x.flac", "b/y.wav")]
    write(*files)
    out = tmp_path / "out"
    for _ in range(2):
        status, said, errors = run("extract", "-u", "fbank", *files, "--out", out, "--json")
        assert status == 0, errors
        assert f"they are called by their paths below {tmp_path / 'in'}" in errors
        written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.safetensors"))
        assert written == ["a/x.safetensors", "b/x.safetensors", "b/y.safetensors"]
        assert len(json.loads(said)["files"]) == 3


def test_names_are_as_short_as_they_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a/x.wav", "b/y.flac", "b/x.flac", "b/x.wav", "b/X.wav")
    first, second, third, fourth, fifth = paths = [tmp_path / name for name in names]
    write(*paths)
    assert ids([first, second]) == ["x", "y"]
    assert ids([first, third]) == ["a/x", "b/x"]
    assert ids([first, third, fourth]) == ["a/x.wav", "b/x.flac", "b/x.wav"]
    assert ids([fourth, third]) == ["x.wav", "x.flac"]
    assert ids([first, fifth]) == ["a/x", "b/X"]
    monkeypatch.chdir(tmp_path / "b")
    assert ids([Path("../a/x.wav"), Path("x.flac")]) == ["a/x", "b/x"]
    with pytest.raises(UserError, match=r"x\.wav has the id 'x', as has .*x\.wav"):
        read_files([first, first])


def test_a_folder_names_by_the_same_rule(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "audio", tmp_path / "elsewhere"
    write(root / "a" / "x.wav", elsewhere / "x.wav", elsewhere / "deep" / "y.flac")
    (root / "linked").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(root)
    (root / "._x.wav").write_bytes(b"\0\5\x16\7")
    (root / "notes.txt").write_text("no audio")
    corpus = read_folder(root)
    found = {cut.id for cut in corpus.split("files")}
    assert found == {"a/x", "linked/x", "linked/deep/y"}
    assert "1 files are no audio and not used (.txt: 1)." in corpus.notes
    (root / "z.m4a").write_bytes(b"\0\0\0\x20ftypM4A " + bytes(99))
    with pytest.raises(UserError, match=r"z\.m4a cannot be read as audio: it is MPEG-4 audio"):
        read_folder(root)
    with pytest.raises(UserError, match="holds no audio"):
        read_folder(tmp_path / "cache")


def test_a_name_that_is_no_text_is_a_bad_file(tmp_path: Path) -> None:
    write(tmp_path / "x.wav", tmp_path / "y.wav")
    os.rename(tmp_path / "x.wav", os.fsencode(tmp_path) + b"/caf\xe9.wav")
    with pytest.raises(UserError, match="has no name, or a name or label in no UTF-8"):
        read_folder(tmp_path)
    corpus = read_folder(tmp_path, skip_bad=True)
    assert [cut.id for cut in corpus.split("files")] == ["y"]
    "".join(corpus.skipped).encode()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../x"], r"id '\.\./x' leads outside"),
        (["a/../../x"], "leads outside"),
        (["/x"], "leads outside"),
        (["a\0b"], "leads outside"),
        (["ä" * 130], r"makes a file name of 272 bytes, of which 255 are possible"),
        (["ok/" + "x" * 250 + "/y", "z" * 244], "makes a file name of 256 bytes"),
        (["a/x", "a//x"], "'a/x' and 'a//x' would be one file"),
        (["a/x", "a/./x"], "would be one file"),
    ],
)
def test_ids_that_are_no_files_are_refused(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        paths_of(names, tmp_path)
    assert len(paths_of(["a/x", "a/X", "x" * 243], tmp_path)) == 3


def test_letters_count_as_the_file_system_counts_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "OUT").symlink_to(out)  # as a file system that merges them shows it
    for one, other in (("a/x", "A/X"), ("\u00e9", "e\u0301")):
        with pytest.raises(UserError, match="would be one file"):
            paths_of([one, other], out)
    os.unlink(tmp_path / "OUT")
    assert len(paths_of(["a/x", "A/X"], out)) == 2


def test_absolute_paths_in_a_manifest_stay_in_the_folder(tmp_path: Path, run: Command) -> None:
    audio, root, out = tmp_path / "audio" / "x.wav", tmp_path / "corpus", tmp_path / "out"
    write(audio)
    root.mkdir()
    (root / "MANIFEST.tsv").write_text(f"path\tsplit\n{audio}\ttrain\n")
    status, _, errors = run("extract", "-u", "fbank", "-c", f"tsv:{root}", "--out", out)
    assert status == 0, errors
    (written,) = out.rglob("*.safetensors")
    assert written == out / str(audio.with_suffix(".safetensors")).removeprefix("/")
