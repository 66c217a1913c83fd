"""Somebody's own corpus, by a function in a file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import auscult
from auscult.errors import UserError

ITEMS = """
from pathlib import Path
from auscult.corpora import Item, Listing

def items(folder):
    for path in sorted(Path(folder).glob("*.wav")):
        split = path.stem.split("-")[0]
        yield Item(id=path.stem, path=path, split=split, speaker=path.stem, labels={"a": "b"})

def listing(folder, split=None, skip_bad=False):
    return Listing(list(items(folder)), notes=[f"asked for {split}, {skip_bad}"])
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    rng = np.random.default_rng(0)
    for name in ("train-a", "train-b", "dev-c", "test-d"):
        soundfile.write(tmp_path / f"{name}.wav", rng.normal(size=8000) / 10, 16000)

    def written(text: str, name: str) -> str:
        (tmp_path / "my.py").write_text(text)
        return f"python:{tmp_path / 'my.py'}:{name}"

    return written


def test_items_and_listings_are_checked_like_every_corpus(
    write: Callable[..., str], tmp_path: Path
) -> None:
    address = f"{write(ITEMS, 'items')}:{tmp_path}"
    corpus = auscult.corpus(address)
    assert corpus.spec == address and corpus.origin.startswith("my.py, sha256 ")
    assert {name: len(cuts) for name, cuts in corpus.splits.items()} == dict(train=2, dev=1, test=1)
    listed = auscult.corpus(f"{write(ITEMS, 'listing')}:{tmp_path}", split="s", skip_bad=True)
    assert listed.sha256 == corpus.sha256 and "asked for s, True" in listed.notes
    (tmp_path / "test-d.wav").write_bytes(b"no audio")
    with pytest.raises(UserError, match="test-d.wav.*--skip-bad"):
        auscult.corpus(address)


def test_a_corpus_that_was_read_by_ours(write: Callable[..., str], tmp_path: Path) -> None:
    rows = ["path\tsplit\tkeyword"]
    rows += [f"{x.name}\t{x.stem.split('-')[0]}\tk" for x in sorted(tmp_path.glob("*.wav"))]
    (tmp_path / "MANIFEST.tsv").write_text("\n".join(rows))
    text = f"import auscult\ndef mine():\n    return auscult.corpus('tsv:{tmp_path}')\n"
    corpus = auscult.corpus(write(text, "mine"))
    assert corpus.spec.startswith("python:") and corpus.origin


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return None", "returns a NoneType; expected"),
        ("return []", "returns a list; expected at least one auscult.corpora.Item"),
        ("return 'tsv:here'", "returns a str; expected"),
        ("return [1]", "returns a list; expected"),
        ("yield 1 / 0", r"ZeroDivisionError.*my.py, line"),
        ("return Corpus('x', {}, {})", "splits is empty"),
        ("return Corpus('x', {'train': []}, {})", "no fingerprint of the split 'train'"),
        ("return Listing([Item(id='a', path=None, split='train')])", "cannot be read"),
    ],
)
def test_what_is_no_corpus(write: Callable[..., str], body: str, sentence: str) -> None:
    text = "from auscult.corpora import *\nfrom auscult.dataset import Corpus\n"
    with pytest.raises(UserError, match=sentence):
        auscult.corpus(write(f"{text}def mine():\n    {body}\n", "mine"))


FRAME = """
import pandas, auscult
def frame(folder):
    rows = [(str(x), x.stem.split("-")[0], x.stem.split("-")[0])
            for x in sorted(folder.glob("*.wav"))]
    return pandas.DataFrame(rows, columns=["path", "split", "other_split"])
def cuts(folder):
    return auscult.corpus(frame(folder)).splits
"""


def test_frames_and_cuts_are_listings_too(write: Callable[..., str], tmp_path: Path) -> None:
    for name in ("frame", "cuts"):
        corpus = auscult.corpus(f"{write(FRAME, name)}:{tmp_path}")
        assert corpus.origin and {n: len(x) for n, x in corpus.splits.items()}["train"] == 2
    assert auscult.corpus(f"{write(FRAME, 'frame')}:{tmp_path}", split="other_split").splits
    folder = str(tmp_path / "here.py")
    Path(folder).write_text(ITEMS)
    from auscult.foreign import import_object

    items = list(import_object(f"python:{folder}:items", "corpus").value(tmp_path))
    assert len(auscult.corpus(items).split("train")) == 2, "and from Python"


def test_a_split_column_that_it_does_not_know(write: Callable[..., str], tmp_path: Path) -> None:
    for text, name in ((FRAME, "cuts"), (ITEMS, "items")):
        address = f"{write(text, name)}:{tmp_path}"
        with pytest.raises(UserError, match="takes no split, and 'other' was given"):
            auscult.corpus(address, split="other")
    with pytest.raises(UserError, match=r"called as items\(\), and takes \(folder\)"):
        auscult.corpus(write(ITEMS, "items"))
