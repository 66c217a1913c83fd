"""A submission to SUPERB's leaderboard, held to what its server silently assumes.

The server scores the names that a file happens to hold: of a file cut short it scores the part, of
a name that stands twice the last line, and after a name that it does not know it leaves the task
without a score. It scores emotions only with all five folds, and takes another frame shift where
diarisation brings none (s3prl's issues 220 and 254 are two of these). None of it is announced.

The zip may be anyone's, so that each kind of file is read up to a limit that no submission reaches.
"""

import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat

import numpy as np
from numpy.typing import NDArray

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.value import LONGEST, shorten

from .archive import Archive, open_archive
from .official import BY_CODE
from .submission import FILES, SLOTS, folder_of, import_h5py

Expected = Mapping[str, float | None]  # name -> seconds of the recording, None where unknown

LARGEST_TEXT = 2**23  # bytes of a file with an item on each line; official ones have 3 MB
LARGEST_RECORDING = 2**22  # bytes, and numbers, of one recording's probabilities
LARGEST_DETECTIONS = 2**30  # bytes of the list of detections; an official one has 700 MB
MOST_DETECTIONS = 2**23  # an official list has 7 million
MOST_QUERIES = 2**14  # an official list has 555
DEEPEST_TAG = 16
LONGEST_TAG = 2**20  # bytes

COUNTS = {  # items of the official test sets, by part
    part: count for row in BY_CODE.values() for part, count in row.parts() if count is not None
}
FOLDS = tuple(code for code in FILES if code.startswith("er_fold"))
KEYWORDS = {"yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"}
INTENTS = {
    "action": {"activate", "bring", "change language", "deactivate", "decrease", "increase"},
    "object": {
        *("Chinese", "English", "German", "Korean", "heat", "juice", "lamp", "lights", "music"),
        *("newspaper", "none", "shoes", "socks", "volume"),
    },
    "location": {"bedroom", "kitchen", "none", "washroom"},
}
VOWELS = {*"AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split()}
CONSONANTS = {*"B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()}
PHONES = CONSONANTS | VOWELS | {f"{v}{stress}" for v in VOWELS for stress in "012"} | {"SPN", "SIL"}


@dataclass(frozen=True, slots=True)
class PartReport:
    """What was found in the folder of one task."""

    code: str
    num_items: int
    num_expected: int | None  # None where no count and no list is known
    by_name: bool  # whether names were held against a list
    problems: tuple[str, ...]  # a sentence each


def check_submission(
    path: Path, expected: Mapping[str, Expected] | None = None
) -> list[PartReport]:
    """Check each task's predictions in a submission.

    Args:
        path: The zip.
        expected: By code, the names that must be there; without them only their number is checked,
            where it is known.

    Returns:
        One report for each task that is there, and one for each that ``expected`` names.

    Raises:
        UserError: Not a zip, a damaged one, one that no submission would be (see
            :mod:`auscult.results.superb.archive`), or one without a folder ``predict``.
    """
    lists = expected or {}
    with open_archive(path) as archive:
        archive.check_content()
        names = archive.names
        if not any(name.startswith("predict/") for name in names):
            raise UserError(
                f"{path} has no folder predict at its top, where the server looks; its first entry "
                f"is {names[0] if names else 'missing'}."
            )
        found = {code for code in FILES if any(n.startswith(f"{folder_of(code)}/") for n in names)}
        wanted = [code for code in FILES if code in found or code in lists]
        if any(code in found for code in FOLDS):
            wanted = [code for code in FILES if code in (*wanted, *FOLDS)]
        reports = [_check_part(code, archive, lists.get(code)) for code in wanted]
        general = archive.problems()
    twice = [name for name, count in Counter(names).items() if count > 1]
    known = tuple(f"{folder_of(code)}/" for code in FILES)
    strange = [name for name in names if not name.startswith(known)]
    general += [f"the zip has two entries {name}" for name in twice]
    general += [f"{name} belongs to no task that is scored from predictions" for name in strange]
    if general:
        reports.append(PartReport("zip", len(names), None, False, _sentences(general)))
    return reports


def names_in_list(code: str, text: str) -> Expected:
    """Return the names in an official list: one on each line, whatever follows it.

    The lines of VoxCeleb1's list of trials are read as they are: ``1 SPEAKER/VIDEO/FILE.wav
    SPEAKER/VIDEO/FILE.wav``.
    """
    lines = [line.split() for line in _lines(text) if line.strip()]
    if code == "ic":
        lines = [line[0].split(",") for line in lines]
    if code == "sv" and all(len(fields) == 3 for fields in lines):
        return {"_".join(_file_name(path) for path in fields[1:]): None for fields in lines}
    return {fields[0]: None for fields in lines}


def _file_name(path: str) -> str:
    return "-".join(path.split("/")[-3:]).partition(".")[0]


def _check_part(code: str, archive: Archive, expected: Expected | None) -> PartReport:
    check: Callable[[str, _Inside, Expected | None], _Result]
    check = {"sd": _check_diarization, "qbe": _check_detections}.get(code, _check_lines)
    folder = f"{folder_of(code)}/"
    inside = _Inside(archive, folder)
    if not inside.names:
        why = ", and emotions are scored with all five folds only" if code in FOLDS else ""
        missing = [f"{folder} is missing{why}"]
        size = None if expected is None else len(expected)
        return PartReport(code, 0, size, expected is not None, _sentences(missing))
    found = check(code, inside, expected)
    problems = [*found.problems, *_coverage(code, found, expected)]
    count = len(expected) if expected is not None else COUNTS.get(code)
    return PartReport(code, found.num_names, count, expected is not None, _sentences(problems))


class _Inside:
    """The files of one task."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self._archive, self._folder = archive, folder
        mine = (name for name in archive.names if name.startswith(folder))
        self.names = dict.fromkeys(name.removeprefix(folder) for name in mine)

    def read(self, name: str, limit: int) -> bytes:
        """Return the content of a file, which is there, of at most ``limit`` bytes."""
        return self._archive.read(self._folder + name, limit)

    def open(self, name: str, limit: int) -> AbstractContextManager[IO[bytes]]:
        """Give such a file to read from."""
        return self._archive.open(self._folder + name, limit)


@dataclass(frozen=True, slots=True)
class _Result:
    names: Iterable[str]  # of the items, each once
    num_names: int
    twice: Sequence[str]  # those that stand there more than once
    problems: Sequence[str]

    @classmethod
    def of_names(cls, names: Sequence[str], problems: Sequence[str]) -> "_Result":
        """Return the result of a part whose names are few enough to be in memory."""
        counts = Counter(names)
        twice = [name for name, count in counts.items() if count > 1]
        return cls(counts, len(counts), twice, problems)


def _coverage(code: str, found: _Result, expected: Expected | None) -> Iterator[str]:
    """Yield what is wrong with the set of names."""
    if found.twice:
        hint = ""
        if code == "ks":
            hint = "; words share file names, which is why a name begins with its word"
        yield (
            _some(found.twice, "names stand there more than once, and the last line is scored")
            + hint
        )
    if expected is None:
        count = COUNTS.get(code)
        if count is not None and found.num_names != count:
            yield f"{found.num_names:,} items, but the official test set has {count:,}"
        return
    names = set(found.names)
    if missing := [name for name in expected if name not in names]:
        yield _some(missing, f"of {len(expected):,} are missing, and only the others are scored")
    if strange := [name for name in found.names if name not in expected]:
        yield _some(strange, "names are not in the test set, and the server gives no score at all")


def _check_lines(code: str, inside: _Inside, expected: Expected | None) -> _Result:
    """Check a file with an item on each line."""
    problems = [f"{name} is not read by the server" for name in inside.names if name != FILES[code]]
    if FILES[code] not in inside.names:
        return _Result.of_names([], [*problems, f"{FILES[code]} is missing"])
    try:
        text = inside.read(FILES[code], LARGEST_TEXT).decode("utf-8")
    except UnicodeDecodeError as error:
        return _Result.of_names(
            [], [*problems, f"{FILES[code]} is not UTF-8 text ({error.reason})"]
        )
    separator = "," if code == "ic" else " "
    names, values = [], []
    for line in _lines(text):
        name, _, value = line.strip().partition(separator)
        names.append(name)
        values.append(value)
    if blank := names.count(""):
        problems.append(f"{blank:,} lines are empty or have no name")
    if text and not text.endswith("\n"):
        last = _short(names[-1])
        problems.append(f"the last line has no end ({last}): the file may have been cut short")
    wrong = {name: v for name, v in zip(names, values, strict=True) if name and not _fits(code, v)}
    if wrong:
        name, value = next(iter(wrong.items()))
        problems.append(
            f"{len(wrong):,} items have no value that the task knows, the first "
            f"{shorten(value)} of {_short(name)}"
        )
    if code == "ks" and (bare := [n for n in names if n and not re.fullmatch(r".+-.+\.wav", n)]):
        problems.append(_some(bare, "names are not made as WORD-FILE.wav"))
    return _Result.of_names([name for name in names if name], problems)


def _lines(text: str) -> Iterator[str]:
    """Yield lines as files have them; a name may hold what str.splitlines takes for an end."""
    return iter(io.StringIO(text, newline=None))


def _fits(code: str, value: str) -> bool:
    """Whether a value is one that the task can answer."""
    if code in FOLDS:
        return value in {"neu", "hap", "ang", "sad"}
    if code == "ks":
        return value in KEYWORDS | {"_unknown_", "_silence_"}
    if code == "sid":
        return bool(re.fullmatch(r"id\d{5}", value)) and 10_001 <= int(value[2:]) <= 11_251
    if code == "ic":
        parts = value.split(",")
        return len(parts) == 3 and all(
            part in INTENTS[slot] for slot, part in zip(SLOTS, parts, strict=True)
        )
    if code == "sv":
        return _is_finite(value)
    if code == "pr":
        return all(phone in PHONES for phone in value.split())
    if code == "sf":
        return True  # words, and the slots that begin and end between them
    return bool(re.fullmatch(r"[A-Z' ]*", value))  # asr; it may have heard nothing


def _is_finite(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _check_diarization(code: str, inside: _Inside, expected: Expected | None) -> _Result:
    """Check probabilities of speakers and how many samples lie between two frames."""
    folder = f"{FILES[code]}/"
    files = {
        name.removeprefix(folder).removesuffix(".h5"): name
        for name in inside.names
        if name.startswith(folder) and name.endswith(".h5")
    }
    read = {*files.values(), "frame_shift"}
    problems = [f"{name} is not read by the server" for name in inside.names if name not in read]
    if not files:
        problems.append(f"{folder} has no .h5 file")
    shift = ""
    if "frame_shift" in inside.names:
        shift = inside.read("frame_shift", LARGEST_TEXT).decode("utf-8", "replace").strip()
    stride = int(shift) if re.fullmatch("[0-9]{1,9}", shift) else 0
    if "frame_shift" not in inside.names:
        problems.append("frame_shift is missing, and the server takes one that may not be yours")
    elif not 0 < stride <= SAMPLE_RATE:
        problems.append(f"frame_shift is {shorten(shift)}, not a number of samples such as 320")
    wrong: dict[str, list[str]] = {}
    for name, file in files.items():
        seconds = None if expected is None else expected.get(name)
        if fault := _recording_fault(inside.read(file, LARGEST_RECORDING), stride, seconds):
            wrong.setdefault(fault, []).append(name)
    problems += [_some(names, f"recordings {fault}") for fault, names in wrong.items()]
    return _Result.of_names(list(files), problems)


def _recording_fault(content: bytes, stride: int, seconds: float | None) -> str:
    """Say what is wrong with one recording's probabilities, "" where nothing is."""
    h5py = import_h5py()
    try:
        values = _probabilities(h5py, content)
    except Exception:  # h5py raises anything where a file is damaged
        return "are not HDF5 files with numbers in T_hat"
    if values.ndim != 2 or 0 in values.shape:
        return "have a T_hat that is not (frame, speaker)"
    if not np.isfinite(values).all():
        return "have a T_hat with NaN or infinity"
    if values.min() < 0 or values.max() > 1:
        return "have a T_hat that is not made of probabilities"
    if seconds is not None and stride and abs(len(values) * stride / SAMPLE_RATE - seconds) > 0.25:
        return f"have other lengths than their audio at a frame shift of {stride} samples"
    return ""


def _probabilities(h5py: Any, content: bytes) -> NDArray[np.float64]:
    """Return what an HDF5 file itself holds as T_hat, of a size that no recording exceeds.

    Its name may lead to another file, as may its numbers, and their shape may be of any size.

    Raises:
        ValueError: It is something else; h5py raises other errors where the file is damaged.
    """
    with h5py.File(io.BytesIO(content), "r") as file:
        if not isinstance(file.get("T_hat", getlink=True), h5py.HardLink):
            raise ValueError("T_hat leads elsewhere")
        found = file["T_hat"]
        if not isinstance(found, h5py.Dataset) or found.is_virtual or found.external:
            raise ValueError("T_hat is no array of its own")
        if found.dtype.kind not in "fiu" or found.size is None or found.size > LARGEST_RECORDING:
            raise ValueError("T_hat has other values, or too many")
        return np.asarray(found[()], dtype=np.float64)  # (frame, speaker)


def _check_detections(code: str, inside: _Inside, expected: Expected | None) -> _Result:
    """Check that every query has a finite score for every document, once."""
    problems = [f"{name} is not read by the server" for name in inside.names if name != FILES[code]]
    found = _Detections()
    try:
        if FILES[code] not in inside.names:
            raise expat.ExpatError("no such file")
        with inside.open(FILES[code], LARGEST_DETECTIONS) as file:
            found.read(file)
    except expat.ExpatError as error:
        return _Result.of_names([], [*problems, f"{FILES[code]} is missing or not XML ({error})"])
    if not found.documents:
        problems.append(f"{FILES[code]} has no detection")
    if found.bad:
        problems.append(_some(found.bad, "scores are not finite numbers"))
    every: set[str] = set().union(*found.documents.values())
    if partial := [query for query, mine in found.documents.items() if mine != every]:
        problems.append(_some(partial, f"queries lack some of the {len(every):,} documents"))
    return _Result(found, len(found), found.twice, problems)


class _Detections:
    """What a list of detections says, read as it comes: an official one has 7 million scores."""

    def __init__(self) -> None:
        self.documents: dict[str, set[str]] = {}  # by query
        self.bad: list[str] = []  # documents whose score is no number
        self._again: dict[str, set[str]] = {}  # documents that a query has twice
        self._query = ""
        self._names: dict[str, str] = {}  # each document once in memory
        self._count = 0
        self._depth = 0

    def __iter__(self) -> Iterator[str]:
        return _pairs(self.documents)

    def __len__(self) -> int:
        return sum(map(len, self.documents.values()))

    @property
    def twice(self) -> list[str]:
        """The pairs of query and document that stand there more than once."""
        return list(_pairs(self._again))

    def read(self, file: IO[bytes]) -> None:
        """Read the XML.

        Raises:
            ExpatError: It is none, or one that no submission has.
        """
        try:
            self._parse(file)
        except (LookupError, ValueError) as error:  # it may name any of Python's encodings
            raise expat.ExpatError(f"its encoding is not read: {shorten(str(error))}") from error

    def _parse(self, file: IO[bytes]) -> None:
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = _refuse_entities
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        num_bytes = 0
        while chunk := file.read(2**16):
            parser.Parse(chunk, False)
            num_bytes += len(chunk)
            if num_bytes - parser.CurrentByteIndex > LONGEST_TAG:
                raise expat.ExpatError(f"a tag of more than {LONGEST_TAG:,} bytes")
        parser.Parse(b"", True)

    def _start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._depth += 1
        if self._depth > DEEPEST_TAG:
            raise expat.ExpatError(f"tags in each other more than {DEEPEST_TAG} deep")
        if tag == "detected_termlist":
            self._query = attributes.get("termid", "")
            self.documents.setdefault(self._query, set())
            if len(self.documents) > MOST_QUERIES:
                raise expat.ExpatError(f"more than {MOST_QUERIES:,} queries")
        elif tag == "term":
            self._count += 1
            if self._count > MOST_DETECTIONS:
                raise expat.ExpatError(f"more than {MOST_DETECTIONS:,} detections")
            name = attributes.get("file", "")
            name = self._names.setdefault(name, name)
            if not _is_finite(attributes.get("score", "")):
                self.bad.append(name)
            mine = self.documents.get(self._query)
            if mine is not None:
                if name in mine:
                    self._again.setdefault(self._query, set()).add(name)
                mine.add(name)

    def _end(self, tag: str) -> None:
        self._depth -= 1
        if tag == "detected_termlist":
            self._query = "\0"  # that no XML can name


def _pairs(documents: Mapping[str, Iterable[str]]) -> Iterator[str]:
    return (f"{query}_{name}" for query, mine in documents.items() for name in mine)


def _refuse_entities(*_declaration: object) -> None:
    raise expat.ExpatError("a document type, whose entities could be of any size")


def _some(names: Sequence[str], what: str) -> str:
    return f"{len(names):,} {what}, the first {_short(names[0])}"


def _short(name: str) -> str:
    return name if len(name) <= LONGEST else shorten(name)


def _sentences(problems: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{problem}." for problem in problems)
