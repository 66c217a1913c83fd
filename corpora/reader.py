"""The table of corpus readers, and the one way in: ``load_corpus``.

lhotse has recipes for most of these layouts, and what they know (phone foldings, speaker lists)
is taken from them. The listing itself is ours: a recipe opens every file on its way, drops
missing ones with a warning and dies at the first unreadable one, so that nothing could be counted
or left out by name; and none gives sex, phones, slots or keyword classes where we need them.
"""

import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.registry import Table
from auscult.tree import find

from .item import Listing

if TYPE_CHECKING:
    import pandas as pd

    from auscult.dataset import Corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """One layout that can be read."""

    name: str
    description: str
    labels: tuple[str, ...]
    splits: str
    layout: str  # what the folder must hold, for error messages and the list of readers
    target: str  # "module:function" of (folder, split column) -> Listing
    signs: tuple[str, ...] = ()  # glob patterns, one of which matches in such a folder
    split_columns: tuple[str, ...] = ("split",)  # empty where the folder itself names them

    def matches(self, folder: Path) -> bool:
        """Say whether ``folder`` looks like this layout."""
        return any(find(folder, sign) for sign in self.signs)


_ROWS = (
    Reader(
        name="demo",
        description="synthetic commands spoken by 24 espeak-ng voices, 10 minutes, made on demand",
        labels=("phone", "word", "speaker", "sex", "transcript", "keyword", "slots"),
        splits="train, dev, test: split (by speaker) or sid_split (same speakers, by sentence)",
        layout="nothing: it is generated (pip install 'auscult[demo]')",
        target="demo:read",
        split_columns=("split", "sid_split"),
    ),
    Reader(
        name="tsv",
        description="anybody's speech, listed in a plain table (docs/tsv-corpus.md)",
        labels=("any column", "slots", "phone", "word", "any alignment column"),
        splits="any column named split, *split or split*",
        layout="MANIFEST.tsv (with the columns path and split) and maybe PHONES.tsv, WORDS.tsv",
        target="tsv:read",
        signs=("MANIFEST.tsv",),
        split_columns=(),
    ),
    Reader(
        name="timit",
        description="TIMIT as distributed by the LDC, without the two sa sentences",
        labels=("phone61", "phone39", "phone", "word", "speaker", "sex", "transcript"),
        splits="train, dev (50 speakers), test (core test, 24 speakers)",
        layout="TRAIN/DR1/FCJF0/SI1027.WAV with .PHN, .WRD and .TXT beside, and TEST likewise",
        target="timit:read",
        signs=("[Tt][Rr][Aa][Ii][Nn]/[Dd][Rr][1-8]", "*/[Tt][Rr][Aa][Ii][Nn]/[Dd][Rr][1-8]"),
    ),
    Reader(
        name="librispeech",
        description="LibriSpeech, with phone alignments where their files are found",
        labels=("speaker", "sex", "transcript", "phone", "word"),
        splits="train (train-clean-100; all_train_split: every train-*), dev, test, other parts; "
        "sid_split: utterances of train's speakers in train, dev and test",
        layout="train-clean-100/103/1240/*.trans.txt with .flac beside; alignments/ for "
        "TextGrids or converted_aligned_phones.txt",
        target="librispeech:read",
        signs=("*/*/*/*.trans.txt", "LibriSpeech/*/*/*/*.trans.txt"),
        split_columns=("split", "all_train_split", "sid_split"),
    ),
    Reader(
        name="speech_commands",
        description="Google Speech Commands v0.01 or v0.02 in SUPERB's 12 classes",
        labels=("keyword", "word", "speaker", "transcript"),
        splits="train, dev (validation_list.txt), test (the official test set in test/, or "
        "testing_list.txt)",
        layout="validation_list.txt, testing_list.txt, _background_noise_/ and one folder a word",
        target="speech_commands:read",
        signs=("validation_list.txt", "speech_commands_v0.0[12]/validation_list.txt"),
    ),
    Reader(
        name="fluent_speech_commands",
        description="Fluent Speech Commands: three intent slots",
        labels=("slots.action", "slots.object", "slots.location", "speaker", "sex", "transcript"),
        splits="train, dev, test",
        layout="data/train_data.csv, data/valid_data.csv, data/test_data.csv and wavs/speakers/",
        target="fluent_speech_commands:read",
        signs=("data/train_data.csv", "*/data/train_data.csv"),
    ),
    Reader(
        name="voxceleb1",
        description="VoxCeleb1 for speaker identification and verification",
        labels=("speaker", "sex", "nationality", "video"),
        splits="split: veri_test_class.txt or iden_split.txt, or made by video; veri_split: test "
        "is what the trials of voxceleb1_test_v2.txt or veri_test.txt name, train other speakers",
        layout="wav/id10001/VIDEO/00001.wav, or the same under dev/wav and test/wav",
        target="voxceleb1:read",
        signs=("wav/id1*", "dev/wav/id1*", "test/wav/id1*"),
        split_columns=("split", "veri_split"),
    ),
    Reader(
        name="iemocap",
        description="IEMOCAP in SUPERB's four classes",
        labels=("emotion", "act", "session", "speaker", "sex", "transcript"),
        splits="fold1 to fold5: test is that session, dev 20 % of the others' utterances",
        layout="Session1/dialog/EmoEvaluation/*.txt and Session1/sentences/wav/*/*.wav, to 5",
        target="iemocap:read",
        signs=("Session1/dialog/EmoEvaluation", "*/Session1/dialog/EmoEvaluation"),
        split_columns=("fold1", "fold2", "fold3", "fold4", "fold5"),
    ),
    Reader(
        name="snips",
        description="Audio SNIPS as SUPERB prepares it: slots of commands",
        labels=("slot_tags", "intent", "speaker", "transcript"),
        splits="train, dev, test: eight, four and four of the voices",
        layout="all.iob.snips.txt and train/, valid/ and test/ with VOICE-snips-PART-NUMBER.wav",
        target="snips:read",
        signs=("all.iob.snips.txt", "SNIPS/all.iob.snips.txt"),
    ),
    Reader(
        name="librimix",
        description="LibriMix in SUPERB's Kaldi folders: who speaks when",
        labels=("who speaks when",),
        splits="train, dev, test",
        layout="train/, dev/ and test/ with wav.scp, segments and utt2spk (or rttm)",
        target="librimix:read",
        signs=("train/wav.scp",),
    ),
    Reader(
        name="quesst14",
        description="QUESST 2014: spoken queries, and documents that they may occur in",
        labels=("keyword (which query)", "language"),
        splits="dev, test (queries) and documents: split (English, as SUPERB) or all_split",
        layout="Audio/, dev_queries/, eval_queries/ and scoring/ with language_key_*.lst and "
        "groundtruth_quesst14_*",
        target="quesst14:read",
        signs=(
            "scoring/language_key_utterances.lst",
            "quesst14Database/scoring/language_key_utterances.lst",
        ),
        split_columns=("split", "all_split"),
    ),
)
READERS: dict[str, Reader] = {row.name: row for row in _ROWS}
TABLE: Table[Reader] = Table("corpus reader", READERS, "auscult.corpora")


def load_corpus(spec: str, *, split: str | None = None, skip_bad: bool = False) -> "Corpus":
    """Read, check and split the labelled speech that ``spec`` addresses; say what is left out.

    Args:
        spec: ``reader[:folder]``, such as ``tsv:/data/mine`` or ``demo``; see ``READERS``. With
            ``python:FILE.py:NAME[:PLACE]`` somebody's own, from the user's hand alone.
        split: Name of the split column, where there are several.
        skip_bad: Leave bad items out, each named in ``Corpus.skipped``, instead of stopping.

    Raises:
        UserError: Unknown reader or split column, wrong folder, an empty split, or, without
            ``skip_bad``, the first bad item.
    """
    return _said(check_corpus(spec, split=split, skip_bad=skip_bad))


def check_corpus(spec: str, *, split: str | None = None, skip_bad: bool = False) -> "Corpus":
    """Do what :func:`load_corpus` does, and say nothing of bad items but in ``Corpus.skipped``."""
    name, _, place = spec.strip().partition(":")
    if TABLE.is_foreign(name):
        from .plugin import read as read_foreign

        return read_foreign(TABLE.find(spec.strip()), spec, split=split, skip_bad=skip_bad)
    if name not in READERS:
        raise _unknown_reader(spec, name)
    reader = READERS[name]
    folder = _folder(place)
    _check_folder(reader, folder if place else None)
    if split is not None and reader.split_columns and split not in reader.split_columns:
        raise unknown(f"split column of {name}", split, reader.split_columns)

    from .assembly import assemble

    module, _, function = reader.target.partition(":")
    read: Callable[[Path, str | None], Listing]
    read = getattr(importlib.import_module(f".{module}", __package__), function)
    return assemble(spec, read(folder, split), skip_bad=skip_bad)


def read_object(
    content: "pd.DataFrame | Mapping[str, Iterable[Any]] | Iterable[Any]",
    *,
    name: str,
    split: str | None = None,
    skip_bad: bool = False,
) -> "Corpus":
    """Check speech that somebody has in Python: a data frame, or lhotse cuts by split.

    Args:
        content: A frame with the columns of ``MANIFEST.tsv`` (see :mod:`auscult.corpora.tsv`),
            paths relative to the working directory; cuts with one supervision each; or a listing.
        name: What records call the corpus.
        split: Split column of a frame that has several.
        skip_bad: Leave bad items out.

    Raises:
        UserError: Neither of the two, or, without ``skip_bad``, the first bad item.
    """
    from .assembly import assemble
    from .plugin import list_object

    if not isinstance(name, str) or not name:
        raise UserError(f"name={name!r}: expected the text that records call the corpus.")
    if ":" in name or name in READERS:
        raise UserError(f"{name!r} reads like an address; give the corpus another name.")
    listing = list_object(content, split)
    if listing is None:
        raise UserError(
            f"An object of type {type(content).__name__} is no corpus; expected an address, a "
            "pandas data frame, lhotse cuts by split, or auscult.corpora.Items."
        )
    return _said(assemble(name, listing, skip_bad=skip_bad))


def read_files(paths: Sequence[Path], *, skip_bad: bool = False) -> "Corpus":
    """Check audio files that belong to no corpus; all are in the split ``files``.

    Raises:
        UserError: One file given twice, or, without ``skip_bad``, the first bad file.
    """
    from .assembly import assemble
    from .loose import list_files

    return _said(assemble("audio files", list_files(paths), skip_bad=skip_bad))


def read_folder(folder: Path, *, skip_bad: bool = False) -> "Corpus":
    """Check all audio in a folder and those below it; see :func:`read_files`.

    Raises:
        UserError: There is none, or, without ``skip_bad``, the first bad file.
    """
    from .assembly import assemble
    from .loose import list_folder

    return _said(assemble(str(folder), list_folder(folder), skip_bad=skip_bad))


def _said(corpus: "Corpus") -> "Corpus":
    """Say what is left out of a corpus."""
    if corpus.skipped:
        count = len(corpus.skipped)
        bad = "1 bad item is" if count == 1 else f"{count} bad items are"
        logger.info(f"{corpus.spec}: {bad} left out; the first: {corpus.skipped[0]}")
    return corpus


def _unknown_reader(spec: str, name: str) -> UserError:
    if not name or not os.path.isdir(_folder(spec)):
        others = (row.name for row in TABLE.listed())
        return unknown("corpus reader", name, [*READERS, *others])
    fits = _fitting(_folder(spec)) or "tsv"
    return UserError(
        f"Corpus {spec!r} is a folder without a reader in front; write READER:FOLDER, such as "
        f"{fits}:{spec}."
    )


def _check_folder(reader: Reader, folder: Path | None) -> None:
    """Raise unless ``folder`` looks like what ``reader`` reads."""
    if not reader.signs:
        if folder is not None:
            raise UserError(f"Corpus {reader.name!r} takes no folder, but {folder} was given.")
        return
    expected = f"expected {reader.name}:FOLDER, where FOLDER holds {reader.layout}"
    if folder is None:
        raise UserError(f"Corpus {reader.name!r} needs a folder: {expected}.")
    if os.path.isfile(folder):
        raise UserError(f"{folder} is a file; {expected}. Try {reader.name}:{folder.parent}.")
    if not os.path.isdir(folder):
        raise UserError(f"Folder {folder} does not exist; {expected}.")
    if not reader.matches(folder):
        fits = _fitting(folder)
        hint = f" It looks like {fits}: try {fits}:{folder}." if fits else ""
        raise UserError(f"Folder {folder} is no {reader.name} corpus; {expected}.{hint}")


def _fitting(folder: Path) -> str | None:
    """Return the name of the first reader whose layout ``folder`` looks like."""
    with suppress(UserError):  # a hint is not worth a folder that may not be read
        return next((row.name for row in _ROWS if row.matches(folder)), None)
    return None


def _folder(place: str) -> Path:
    if "\0" in place:
        raise UserError(f"{place!r} is no folder: no name holds a NUL character.")
    return Path(os.path.expanduser(place))
