"""Tiny corpora on disk, and a cache folder of the test's own."""

import io
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from auscult.corpora import load_corpus
from auscult.dataset import Corpus
from auscult.errors import UserError


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """Undo what the command line does to the logger."""
    logger = logging.getLogger("auscult")
    yield
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


LinkFolders = Callable[..., None]
BreakText = Callable[..., None]
WriteAudio = Callable[..., Path]
WriteCorpus = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AUSCULT_CACHE", str(folder))
    return folder


@pytest.fixture
def write_audio() -> WriteAudio:
    """A function that writes noise, other noise for each path."""

    def write(
        path: Path, seconds: float = 0.3, rate: int = 16_000, channels: int = 1, **options: Any
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(list(str(path).encode())).uniform(
            -0.5, 0.5, (round(seconds * rate), channels)
        )
        file = io.BytesIO()  # soundfile would wait for the disk after each file
        kind: dict[str, Any] = {"format": path.suffix[1:].upper()} | options
        soundfile.write(file, noise, rate, **kind)
        path.write_bytes(file.getvalue())
        return path

    return write


@pytest.fixture
def write_corpus(tmp_path: Path, write_audio: WriteAudio) -> WriteCorpus:
    """A function that writes a tsv corpus: 6 speakers with 3 utterances each."""

    def write(
        header: Sequence[str] = ("path", "utt", "speaker", "split"),
        rows: Sequence[Sequence[str]] | None = None,
        name: str = "corpus",
    ) -> Path:
        folder = tmp_path / name
        if rows is None:
            parts = ["train", "train", "train", "dev", "test", "test"]
            rows = [
                (f"a/{s}-{u}.wav", f"{s}-{u}", f"s{s}", part)
                for s, part in enumerate(parts)
                for u in range(3)
            ]
        folder.mkdir(exist_ok=True)
        for row in rows:
            write_audio(folder / row[list(header).index("path")])
        lines = ["\t".join(line) for line in [header, *rows]]
        (folder / "MANIFEST.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return folder

    return write


@pytest.fixture
def link_folders(tmp_path: Path) -> LinkFolders:
    """A function that puts folders of a corpus elsewhere, links them and reads the corpus again."""

    def link(spec: str, root: Path, split: str | None = None) -> None:
        before = _told(load_corpus(spec, split=split))
        folders = [path for path in sorted(root.rglob("*")) if path.is_dir()]
        assert folders
        for number, folder in enumerate([*folders, root]):
            if folder.is_symlink():
                continue
            elsewhere = tmp_path / "elsewhere" / str(number)
            elsewhere.parent.mkdir(exist_ok=True)
            shutil.move(folder, elsewhere)
            folder.symlink_to(elsewhere)
            if number in (0, len(folders) - 1, len(folders)):
                assert _told(load_corpus(spec, split=split)) == before
        for folder in (root, folders[-1]):
            (folder / "loop").symlink_to(root)
        assert _told(load_corpus(spec, split=split)) == before

    return link


@pytest.fixture
def break_text() -> BreakText:
    """A function that writes a corpus' text files in other encodings: read alike or named."""

    def rewrite(spec: str, root: Path, *patterns: str, split: str | None = None) -> None:
        before = _told(load_corpus(spec, split=split))
        files = [path for pattern in patterns for path in sorted(root.glob(pattern))]
        assert len(files) >= len(patterns)
        for path in files:
            text = path.read_bytes()
            for encoding in ("utf-8-sig", "utf-16", "utf-16-be"):
                mark = "\ufeff" if encoding == "utf-16-be" else ""
                path.write_bytes((mark + text.decode()).encode(encoding))
                assert _told(load_corpus(spec, split=split)) == before, (path, encoding)
            path.write_bytes(text.replace(b"\n", b"\r\n"))
            assert _told(load_corpus(spec, split=split)) == before, path
            for bad in (b"caf\xe9 " + text, text.decode().encode("utf-16-le"), bytes(range(256))):
                path.write_bytes(bad)
                with pytest.raises(UserError, match=rf"{path.name}, line \d+: "):
                    load_corpus(spec, split=split)
                try:
                    left = load_corpus(spec, split=split, skip_bad=True)
                    assert f"{path.name}, line " in " ".join(left.skipped)
                except UserError as error:
                    assert f"{path.name}, line " in str(error) or "bad item" in str(error)
            path.write_bytes(text)

    return rewrite


def _told(corpus: Corpus) -> object:
    return corpus.sha256, corpus.skipped, corpus.trials
