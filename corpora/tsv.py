"""``tsv:DIR``: anybody's speech, listed in plain tables.

``DIR/MANIFEST.tsv`` is tab-separated text (UTF-8, or UTF-16 with a byte order mark) with one header
line and no quoting: one line for each utterance, as many fields in it as in the header. Columns:

* ``path`` (required): the audio file, relative to DIR. Any rate and number of channels.
* ``utt``: the utterance's id; without this column, the path without its suffix.
* ``speaker``, ``sex``, ``transcript``, ``language``: labels; empty where unknown.
* ``slots_json``: intent slots as one JSON object, such as ``{"action": "bring"}``.
* any column whose name begins or ends with ``split`` (at least one): what the utterance is for:
  ``train``, ``dev`` (or ``valid``), ``test`` or another name; an utterance whose value is empty is
  not used. Where there are several such columns, ``split`` is taken unless another is asked for.
* every other column is a label of that name. Without a column ``keyword``, ``label`` is the
  keyword as well.

``DIR/PHONES.tsv`` and ``DIR/WORDS.tsv`` (optional) give times: columns ``utt``, ``start``,
``end`` and one or more columns of symbols. Times are in samples at 16 kHz, whatever the rate of
the file; ``start`` is inclusive, ``end`` exclusive; an empty symbol is a gap. Each symbol column
is an alignment of that name, and the first one is also ``phone`` or ``word``.

``DIR/*.rttm`` (optional) say who speaks when, for recordings of several speakers: each becomes the
alignment ``speaker`` of the utterance whose id is the RTTM's recording.

``DIR/TRIALS.tsv`` (optional) has columns ``target`` (1 where one speaker says both, else 0),
``enrol`` and ``test``: the path or the id of an utterance.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from auscult.dataset import Trial
from auscult.errors import UserError, unknown
from auscult.text import read_lines
from auscult.tree import find

from .item import Item, Listing, Span
from .rttm import SLACK, read_rttm

if TYPE_CHECKING:
    import pandas as pd

STANDARD = ("path", "utt", "speaker", "sex", "transcript", "language", "slots_json")
FRAME = "the data frame"  # what stands for a path where there is none
DEV_NAMES = ("valid", "val", "validation", "development")  # other names for dev


@dataclass(frozen=True, slots=True)
class _Table:
    """A tab-separated file: lines that fit its header, and sentences about those that do not."""

    path: Path
    header: list[str]
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)  # line number, fields
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Times:
    """The alignments of PHONES.tsv, WORDS.tsv or RTTM files."""

    source: str
    spans: dict[str, dict[str, list[Span]]]  # utterance -> alignment -> spans
    problems: dict[str, str]  # utterance -> what is wrong with its lines


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``.

    Raises:
        UserError: A table cannot be read, or its columns are not what they should be.
    """
    table = _read_table(folder / "MANIFEST.tsv", required=("path",))
    column = _choose_split(table, split)
    times = [
        _read_times(folder / name, also)
        for name, also in (("PHONES.tsv", "phone"), ("WORDS.tsv", "word"))
        if (folder / name).is_file()
    ]
    turns, problems = read_rttm(find(folder, "*.rttm"))
    if turns:
        spans = {name: {"speaker": part} for name, part in turns.items()}
        times.append(_Times("RTTM files", spans, {}))
    return _listing(folder, table, column, times, problems)


def list_frame(frame: "pd.DataFrame", split: str | None, root: Path) -> Listing:
    """List the utterances of a data frame with the columns of ``MANIFEST.tsv``.

    Args:
        frame: A row for each utterance; whatever is no text becomes it, NaN and None are empty.
        split: Split column.
        root: What paths are relative to.

    Raises:
        UserError: Its columns are not what they should be.
    """
    header = [str(name) for name in frame.columns]
    table = _Table(Path(FRAME), header)
    _check_header(table.path, header, required=("path",))
    for number, row in enumerate(frame.itertuples(index=False), start=1):
        table.rows.append((number, dict(zip(header, map(_cell, row), strict=True))))
    return _listing(root, table, _choose_split(table, split), [], [])


def _cell(value: object) -> str:
    import pandas as pd

    known: Any = value
    missing = pd.api.types.is_scalar(known) and pd.isna(known)
    return "" if missing else str(value)


def _listing(
    folder: Path, table: _Table, column: str, times: Sequence[_Times], problems: Sequence[str]
) -> Listing:
    """Make items of the lines of a table."""
    items: list[Item] = []
    problems, notes = [*table.problems, *problems], _unknown_utterances(folder, table, times)
    used = [(line, row) for line, row in table.rows if row[column]]
    if len(used) < len(table.rows):
        unused = len(table.rows) - len(used)
        notes.append(f"{unused} of {len(table.rows)} utterances have no {column!r}; not used.")
    for line, row in used:
        item = _item(folder, column, row, times)
        if isinstance(item, Item):
            items.append(item)
        else:
            problems.append(f"{table.path} line {line} {item}")
    given = dict.fromkeys(row[column] for _, row in used)
    notes += [f"Split {name!r} is read as 'dev'." for name in given if name in DEV_NAMES]
    expected = tuple(dict.fromkeys(map(_split_name, given)))
    trials = _read_trials(folder / "TRIALS.tsv", table, problems)
    return Listing(items, problems, notes, column, expected, trials)


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table that :func:`read` reads; no field may hold a tab or a line break."""
    lines = ["\t".join(map(str, row)) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _read_table(path: Path, required: Sequence[str]) -> _Table:
    lines = read_lines(path) or [""]
    header = lines[0].split("\t")
    _check_header(path, header, required)
    table = _Table(path, header)
    for number, line in enumerate(lines[1:], start=2):
        fields = line.split("\t")
        if fields == [""]:
            continue
        if len(fields) == len(header):
            table.rows.append((number, dict(zip(header, fields, strict=True))))
        else:
            table.problems.append(
                f"{path} line {number} has {len(fields)} fields where the header has {len(header)}"
            )
    return table


def _check_header(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    if missing := [name for name in required if name not in header]:
        raise UserError(
            f"{path} has no column {missing[0]!r}; "
            + "its first line must name the columns, separated by tabs " * (str(path) != FRAME)
            + f"(found: {', '.join(header)[:200]})."
        )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} more than once.")
    if "slots" in header:
        raise UserError(f"{path} has a column 'slots'; intent slots go into 'slots_json'.")


def _choose_split(table: _Table, asked: str | None) -> str:
    columns = [name for name in table.header if _is_split(name)]
    if not columns:
        raise UserError(
            f"{table.path} has no column whose name begins or ends with 'split'; add one that "
            "says train, dev or test for each utterance."
        )
    if asked is not None:
        if asked not in columns:
            raise unknown(f"split column of {table.path}", asked, columns)
        return asked
    if len(columns) == 1:
        return columns[0]
    if "split" in columns:
        return "split"
    raise UserError(
        f"{table.path} has several split columns; choose one with split= or --split: "
        f"{', '.join(columns)}."
    )


def _item(folder: Path, column: str, row: Mapping[str, str], times: Sequence[_Times]) -> Item | str:
    """Return the utterance of one line, or what is wrong with the line."""
    if not row["path"]:
        return "has no path"
    name = _utterance(row)
    for table in times:
        if name in table.problems:
            return f"names {row['path']}, but {table.problems[name]}"
    labels: dict[str, Any] = {
        key: value
        for key, value in row.items()
        if value and key not in STANDARD and not _is_split(key)
    }
    if "keyword" not in row and row.get("label"):
        labels["keyword"] = row["label"]
    if row.get("slots_json"):
        slots = _slots(row["slots_json"])
        if slots is None:
            return f"has slots_json {row['slots_json'][:80]!r}, which is no JSON object of texts"
        labels["slots"] = slots
    turns = any("speaker" in table.spans.get(name, ()) for table in times)
    return Item(
        id=_id(row),
        path=folder / row["path"],
        split=_split_name(row[column]),
        speaker=row.get("speaker") or None,
        sex=row.get("sex") or None,
        text=row.get("transcript") or None,
        language=row.get("language") or None,
        labels=labels,
        alignments={
            alignment: tuple(spans)
            for table in times
            for alignment, spans in table.spans.get(name, {}).items()
        },
        slack=SLACK if turns else 0,
    )


def _slots(text: str) -> dict[str, str] | None:
    """Return a JSON object's values as texts; None where it is none that can be kept."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            return None
        slots = {key: str(value) for key, value in found.items()}
        whole = "".join((*slots, *slots.values()))
        whole.encode()  # \\ud800 alone is no character
    except (ValueError, RecursionError):
        return None
    return None if "\0" in whole else slots


def _utterance(row: Mapping[str, str]) -> str:
    """Return what the other tables call an utterance."""
    path = PurePosixPath(row["path"])
    return row.get("utt") or str(path.with_suffix("") if path.name else path)


def _id(row: Mapping[str, str]) -> str:
    """Return an utterance's id, which leads to no other folder where it is made from a path."""
    if row.get("utt"):
        return row["utt"]
    parts = PurePosixPath(_utterance(row)).parts
    return "/".join("up" if part == ".." else part for part in parts if part != "/")


def _is_split(column: str) -> bool:
    return column.startswith("split") or column.endswith("split")


def _split_name(value: str) -> str:
    return "dev" if value in DEV_NAMES else value


def _read_times(path: Path, also: str) -> _Times:
    """Read PHONES.tsv or WORDS.tsv; ``also`` is the first symbol column's second name."""
    table = _read_table(path, required=("utt", "start", "end"))
    symbols = [name for name in table.header if name not in ("utt", "start", "end")]
    if not symbols:
        raise UserError(f"{path} has no column of symbols beside utt, start and end.")
    if table.problems:  # which utterance such a line belongs to is not known
        raise UserError(f"{table.problems[0]}.")
    names = {name: name for name in symbols} | {also: symbols[0]}
    times = _Times(path.name, {}, {})
    for line, row in table.rows:
        try:
            start, end = int(row["start"]), int(row["end"])
        except ValueError:
            where = f"{path} line {line} gives it the times {row['start']!r} to {row['end']!r}"
            times.problems[row["utt"]] = f"{where}, which are no whole samples"
            continue
        alignments = times.spans.setdefault(row["utt"], {})
        for name, source in names.items():
            alignments.setdefault(name, []).append(Span(start, end, row[source]))
    return times


def _unknown_utterances(folder: Path, table: _Table, times: Sequence[_Times]) -> list[str]:
    known = {_utterance(row) for _, row in table.rows if row["path"]}
    notes = []
    for part in times:
        if strange := sorted(part.spans.keys() - known):
            notes.append(
                f"{part.source} of {folder} give times for utterances that MANIFEST.tsv does not "
                f"have: {len(strange)} (first: {strange[0]})."
            )
    return notes


def _read_trials(path: Path, manifest: _Table, problems: list[str]) -> list[Trial]:
    """Read the trials, where there are any; append what is wrong with lines to ``problems``."""
    if not path.is_file():
        return []
    names = {row["path"]: _id(row) for _, row in manifest.rows}
    names |= {_utterance(row): _id(row) for _, row in manifest.rows}
    table = _read_table(path, required=("target", "enrol", "test"))
    problems += table.problems
    trials = []
    for line, row in table.rows:
        strange = [row[side] for side in ("enrol", "test") if row[side] not in names]
        if row["target"] not in ("0", "1"):
            problems.append(f"{path} line {line} has the target {row['target']!r}, not 0 or 1")
        elif strange:
            problems.append(f"{path} line {line} names {strange[0]!r}, which MANIFEST.tsv lacks")
        else:
            trials.append(Trial(names[row["enrol"]], names[row["test"]], row["target"] == "1"))
    return trials
