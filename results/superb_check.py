"""A submission to SUPERB's leaderboard, held to what its server silently assumes.

The server scores the names that a file happens to hold: of a file cut short it scores the part, of
a name that stands twice the last line, and after a name that it does not know it leaves the task
without a score. It scores emotions only with all five folds, and takes another frame shift where
diarisation brings none (s3prl's issues 220 and 254 are two of these). None of it is announced.
"""

import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError

from .superb_submission import FILES, SLOTS, folder_of, import_h5py

Expected = Mapping[str, float | None]  # name -> seconds of the recording, None where unknown

COUNTS = {  # items of the official test sets
    **{"pr": 2620, "asr": 2620, "asr_lm": 2620, "ks": 3081, "ic": 3793, "sid": 8251},
    **{"sv": 37_720, "sd": 3000},
    **{f"er_fold{i}": n for i, n in enumerate((1085, 1023, 1151, 1031, 1241), start=1)},
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
        UserError: Not a zip, a damaged one, or one without a folder ``predict``.
    """
    lists = expected or {}
    try:
        with zipfile.ZipFile(path) as archive:
            if broken := archive.testzip():
                raise UserError(f"{path} is damaged at {broken}; write it again.")
            names = [name for name in archive.namelist() if not name.endswith("/")]
            contents = {name: archive.read(name) for name in names}
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} is not a zip file ({error}); write it again.") from error
    if not any(name.startswith("predict/") for name in names):
        raise UserError(
            f"{path} has no folder predict at its top, where the server looks; its first entry is "
            f"{names[0] if names else 'missing'}."
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    found = {code for code in FILES if any(n.startswith(f"{folder_of(code)}/") for n in names)}
    wanted = [code for code in FILES if code in found or code in lists]
    if any(code in found for code in FOLDS):
        wanted = [code for code in FILES if code in (*wanted, *FOLDS)]
    reports = [_check_part(code, contents, lists.get(code)) for code in wanted]
    known = tuple(f"{folder_of(code)}/" for code in FILES)
    strange = [name for name in names if not name.startswith(known)]
    general = [f"the zip has two entries {name}" for name in twice]
    general += [f"{name} belongs to no task that is scored from predictions" for name in strange]
    if general:
        reports.append(PartReport("zip", len(names), None, False, _sentences(general)))
    return reports


def names_in_list(code: str, text: str) -> Expected:
    """Return the names in an official list: one on each line, whatever follows it.

    The lines of VoxCeleb1's list of trials are read as they are: ``1 SPEAKER/VIDEO/FILE.wav
    SPEAKER/VIDEO/FILE.wav``.
    """
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if code == "ic":
        lines = [line[0].split(",") for line in lines]
    if code == "sv" and all(len(fields) == 3 for fields in lines):
        return {"_".join(_file_name(path) for path in fields[1:]): None for fields in lines}
    return {fields[0]: None for fields in lines}


def _file_name(path: str) -> str:
    return "-".join(path.split("/")[-3:]).partition(".")[0]


def _check_part(code: str, contents: Mapping[str, bytes], expected: Expected | None) -> PartReport:
    check: Callable[[str, Mapping[str, bytes], Expected | None], _Result]
    check = {"sd": _check_diarization, "qbe": _check_detections}.get(code, _check_lines)
    folder = f"{folder_of(code)}/"
    inside = {n.removeprefix(folder): c for n, c in contents.items() if n.startswith(folder)}
    if not inside:
        why = ", and emotions are scored with all five folds only" if code in FOLDS else ""
        missing = [f"{folder} is missing{why}"]
        size = None if expected is None else len(expected)
        return PartReport(code, 0, size, expected is not None, _sentences(missing))
    found = check(code, inside, expected)
    problems = [*found.problems, *_coverage(code, found.names, expected)]
    count = len(expected) if expected is not None else COUNTS.get(code)
    return PartReport(
        code, len(set(found.names)), count, expected is not None, _sentences(problems)
    )


@dataclass(frozen=True, slots=True)
class _Result:
    names: Sequence[str]  # of the items, as often as they stand there
    problems: Sequence[str]


def _coverage(code: str, names: Sequence[str], expected: Expected | None) -> Iterator[str]:
    """Yield what is wrong with the set of names."""
    counts = Counter(names)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        hint = ""
        if code == "ks":
            hint = "; words share file names, which is why a name begins with its word"
        yield _some(twice, "names stand there more than once, and the last line is scored") + hint
    if expected is None:
        count = COUNTS.get(code)
        if count is not None and len(counts) != count:
            yield f"{len(counts):,} items, but the official test set has {count:,}"
        return
    if missing := [name for name in expected if name not in counts]:
        yield _some(missing, f"of {len(expected):,} are missing, and only the others are scored")
    if strange := [name for name in counts if name not in expected]:
        yield _some(strange, "names are not in the test set, and the server gives no score at all")


def _check_lines(code: str, inside: Mapping[str, bytes], expected: Expected | None) -> _Result:
    """Check a file with an item on each line."""
    problems = [f"{name} is not read by the server" for name in inside if name != FILES[code]]
    if FILES[code] not in inside:
        return _Result([], [*problems, f"{FILES[code]} is missing"])
    try:
        text = inside[FILES[code]].decode("utf-8")
    except UnicodeDecodeError as error:
        return _Result([], [*problems, f"{FILES[code]} is not UTF-8 text ({error.reason})"])
    separator = "," if code == "ic" else " "
    names, values = [], []
    for line in text.splitlines():
        name, _, value = line.strip().partition(separator)
        names.append(name)
        values.append(value)
    if blank := names.count(""):
        problems.append(f"{blank:,} lines are empty or have no name")
    if text and not text.endswith("\n"):
        problems.append(f"the last line has no end ({names[-1]}): the file may have been cut short")
    wrong = {name: v for name, v in zip(names, values, strict=True) if name and not _fits(code, v)}
    if wrong:
        name, value = next(iter(wrong.items()))
        problems.append(
            f"{len(wrong):,} items have no value that the task knows, the first {value!r} of {name}"
        )
    if code == "ks" and (bare := [n for n in names if n and not re.fullmatch(r".+-.+\.wav", n)]):
        problems.append(_some(bare, "names are not made as WORD-FILE.wav"))
    return _Result([name for name in names if name], problems)


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


def _check_diarization(
    code: str, inside: Mapping[str, bytes], expected: Expected | None
) -> _Result:
    """Check probabilities of speakers and how many samples lie between two frames."""
    folder = f"{FILES[code]}/"
    files = {
        name.removeprefix(folder).removesuffix(".h5"): content
        for name, content in inside.items()
        if name.startswith(folder) and name.endswith(".h5")
    }
    read = {f"{folder}{name}.h5" for name in files} | {"frame_shift"}
    problems = [f"{name} is not read by the server" for name in inside if name not in read]
    if not files:
        problems.append(f"{folder} has no .h5 file")
    shift = inside.get("frame_shift", b"").decode("utf-8", "replace").strip()
    stride = int(shift) if shift.isdecimal() else 0
    if "frame_shift" not in inside:
        problems.append("frame_shift is missing, and the server takes one that may not be yours")
    elif not 0 < stride <= SAMPLE_RATE:
        problems.append(f"frame_shift is {shift!r}, not a number of samples such as 320")
    wrong: dict[str, list[str]] = {}
    for name, content in files.items():
        seconds = None if expected is None else expected.get(name)
        if fault := _recording_fault(content, stride, seconds):
            wrong.setdefault(fault, []).append(name)
    problems += [_some(names, f"recordings {fault}") for fault, names in wrong.items()]
    return _Result(list(files), problems)


def _recording_fault(content: bytes, stride: int, seconds: float | None) -> str:
    """Say what is wrong with one recording's probabilities, "" where nothing is."""
    try:
        with import_h5py().File(io.BytesIO(content), "r") as file:
            values = np.asarray(file["T_hat"][:], dtype=np.float64)  # (frame, speaker)
    except (OSError, KeyError, TypeError, ValueError):
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


def _check_detections(code: str, inside: Mapping[str, bytes], expected: Expected | None) -> _Result:
    """Check that every query has a finite score for every document, once."""
    problems = [f"{name} is not read by the server" for name in inside if name != FILES[code]]
    try:
        root = ElementTree.fromstring(inside.get(FILES[code], b""))
    except ElementTree.ParseError as error:
        return _Result([], [*problems, f"{FILES[code]} is missing or not XML ({error})"])
    names: list[str] = []
    documents: dict[str, set[str]] = {}
    for terms in root.iter("detected_termlist"):
        query = terms.get("termid", "")
        mine = documents.setdefault(query, set())
        for term in terms.iter("term"):
            mine.add(term.get("file", ""))
            names.append(f"{query}_{term.get('file', '')}")
    if not names:
        problems.append(f"{FILES[code]} has no detection")
    bad = [t.get("file", "") for t in root.iter("term") if not _is_finite(t.get("score", ""))]
    if bad:
        problems.append(_some(bad, "scores are not finite numbers"))
    every = set().union(*documents.values())
    if partial := [query for query, mine in documents.items() if mine != every]:
        problems.append(_some(partial, f"queries lack some of the {len(every):,} documents"))
    return _Result(names, problems)


def _some(names: Sequence[str], what: str) -> str:
    return f"{len(names):,} {what}, the first {names[0]}"


def _sentences(problems: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{problem}." for problem in problems)
