"""The real sets beside the checkout, every one with every split column."""

from pathlib import Path

import numpy as np
import pytest

from auscult.corpora import load_corpus
from auscult.dataset import frame_labels, supervision_of, utterance_label

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data is not there")

SETS = [
    ("timit-sample", "split", {"train": 100, "dev": 20, "test": 40}, False),
    ("timit-sample", "split_nosa", {"train": 80, "dev": 16, "test": 32}, False),
    (
        "speech-commands-v2-test-subset",
        "kws_split",
        {"train": 1_271, "dev": 337, "test": 541},
        False,
    ),
    ("speech-commands-v2-test-subset", "sid_split", {"train": 480, "dev": 220, "test": 240}, True),
    ("speechocean762-subset", "split", {"train": 152, "dev": 64, "test": 160}, False),
    ("speechocean762-subset", "sid_split", {"train": 235, "dev": 47, "test": 94}, True),
    ("speechocean762-subset", "official_split", {"train": 184, "dev": 32, "test": 160}, False),
    ("librispeech-speakers", "split", {"train": 151, "dev": 38, "test": 62, "verify": 100}, False),
    ("ravdess-subset", "split", {"train": 391, "dev": 112, "test": 168}, False),
    ("coffee-intents-subset", "split", {"train": 132, "dev": 33, "test": 55}, False),
    ("ami-diarization-excerpts", "split", {"train": 10, "dev": 2, "test": 2, "sample": 1}, False),
]


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for all tests here: each set is decoded once."""
    return tmp_path_factory.mktemp("scanned")


@pytest.fixture(autouse=True)
def use_what_was_scanned(scanned: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUSCULT_CACHE", str(scanned))


@needs_shared
@pytest.mark.parametrize(("name", "column", "sizes", "shares"), SETS)
def test_every_set_reads(name: str, column: str, sizes: dict[str, int], shares: bool) -> None:
    corpus = load_corpus(f"tsv:{SHARED / name}", split=column)
    assert {part: len(cuts) for part, cuts in corpus.splits.items()} == sizes
    assert bool(corpus.speaker_overlap) == shares and corpus.skipped == ()
    for part in corpus.splits.values():
        assert all(cut.sampling_rate == 16_000 for cut in part)


@needs_shared
def test_phones_of_timit_are_exact() -> None:
    corpus = load_corpus(f"tsv:{SHARED / 'timit-sample'}", split="split_nosa")
    lines = (SHARED / "timit-sample" / "PHONES.tsv").read_text().splitlines()[1:]
    rows = [line.split("\t") for line in lines]
    compared = 0
    for part in corpus.splits.values():
        for cut in part:
            mine = [row for row in rows if row[0] == cut.id]
            middles = np.array([(int(start) + int(end)) / 2 for _, start, end, _, _ in mine])
            assert frame_labels(cut, "phone61", middles) == [row[3] for row in mine]
            assert frame_labels(cut, "phone39", middles) == [row[4] or None for row in mine]
            compared += len(mine)
    assert compared > 4000


@needs_shared
def test_labels_of_real_sets() -> None:
    coffee = load_corpus(f"tsv:{SHARED / 'coffee-intents-subset'}").split("train")[0]
    assert utterance_label(coffee, "slots.roast") == "light roast"
    assert utterance_label(coffee, "slots.milkAmount") == "none"
    words = load_corpus(f"tsv:{SHARED / 'speech-commands-v2-test-subset'}", split="kws_split")
    classes = {utterance_label(cut, "keyword") for cut in words.split("train")}
    assert len(classes) == 12 and {"_silence_", "_unknown_"} < classes
    actor = load_corpus(f"tsv:{SHARED / 'ravdess-subset'}").split("train")[0]
    assert utterance_label(actor, "emotion") == "neutral"
    assert supervision_of(actor).gender == "m"
