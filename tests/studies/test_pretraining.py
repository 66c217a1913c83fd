"""Pretraining from Python: the verb's encoder bit for bit, on corpora as objects too."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import auscult
from auscult.errors import UserError

Command = Callable[..., tuple[int, str, str]]
SHORT = ("total_steps=3", "batch_seconds=2", "crop_seconds=0.3", "log_step=1", "save_step=2")
TINY: dict[str, Any] = {"preset": "tiny", "settings": SHORT}


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    return f"tsv:{tone_corpus()}"


def weights(folder: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert {"curve.jsonl", "training.json"} < found.keys()
    return found


def test_as_the_verb(corpus: str, tmp_path: Path, run: Command) -> None:
    words = ("pretrain", "mockingjay", "-c", corpus, "--preset", "tiny", *SHORT, "--limit", 3)
    status, said, errors = run(*words, "--out", tmp_path / "verb", "--json")
    assert status == 0, errors
    found = auscult.pretrain("mockingjay", corpus, out=tmp_path / "mine", limit=3, **TINY)
    assert weights(tmp_path / "verb") == weights(tmp_path / "mine")
    said_here = {**found.to_dict(), "records": [], "upstream": f"mockingjay:{tmp_path / 'verb'}"}
    assert said_here == json.loads(said)
    assert (found.steps, found.configuration["utterances"]) == (3, 3)
    assert auscult.load(found.upstream).spec.num_layers == found.configuration["num_layers"]
    assert list(found.curve().step) == [1, 2, 3] and "total_steps" in found._repr_html_()
    speech = auscult.corpus(corpus)
    again = auscult.pretrain("mockingjay", [speech], out=tmp_path / "mine", limit=3, **TINY)
    assert again.steps == 0 and again.upstream == found.upstream
    with pytest.raises(UserError, match="holds a run with corpora"):
        auscult.pretrain("mockingjay", corpus, out=tmp_path / "mine", **TINY)


def test_a_frame_and_cuts_are_learned_from(corpus: str, tmp_path: Path) -> None:
    import pandas as pd

    folder = Path(corpus.removeprefix("tsv:"))
    frame = pd.read_csv(folder / "MANIFEST.tsv", sep="\t", dtype=str, keep_default_na=False)
    frame["path"] = [str(folder / path) for path in frame.path]
    cuts = auscult.corpus(corpus).splits
    options = {**TINY, "dry_run": True, "out": tmp_path / "out"}
    (size,) = {
        auscult.pretrain("mockingjay", speech, **options).configuration["utterances"]
        for speech in (corpus, frame, [frame], cuts)
    }
    both = auscult.pretrain("mockingjay", [frame, corpus], **options)
    assert both.configuration["utterances"] == 2 * size
    with pytest.raises(UserError, match="is no corpus"):
        auscult.pretrain("mockingjay", 3, **options)  # type: ignore[arg-type]


def test_a_dry_run_makes_nothing(corpus: str, tmp_path: Path) -> None:
    folder = Path(corpus.removeprefix("tsv:"))
    (tmp_path / "mine.toml").write_text("dim = 48\nheads = 2\n")
    options = {**TINY, "config": tmp_path / "mine.toml", "dry_run": True, "out": tmp_path / "out"}
    found = auscult.pretrain("mockingjay", [folder, f"{corpus}#split"], splits="all", **options)
    assert found.configuration["dim"] == 48 and found.configuration["utterances"] == 24 * 2
    assert found.upstream == "" and found.steps == 0 and not len(found.curve())
    assert not (tmp_path / "out").exists()
