"""Tiny corpora on disk, and a cache folder of the test's own."""

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile


@pytest.fixture(autouse=True)
def fresh_logger() -> Iterator[None]:
    """Undo what the command line does to the logger."""
    logger = logging.getLogger("auscult")
    yield
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


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
