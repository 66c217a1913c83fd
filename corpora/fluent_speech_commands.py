"""``fluent_speech_commands:DIR``: Fluent Speech Commands, three intent slots."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from auscult.errors import UserError
from auscult.text import read_text
from auscult.tree import find

from .item import Item, Listing

PARTS = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
SLOTS = ("action", "object", "location")


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``.

    Raises:
        UserError: A table or one of its columns is missing.
    """
    root = _root(folder)
    sexes = _sexes(root / "data" / "speaker_demographics.csv")
    listing = Listing([], expected=tuple(PARTS))
    for name, table in PARTS.items():
        columns = ("path", "speakerId", "transcription", *SLOTS)
        for row in _rows(root / "data" / table, columns, listing.problems):
            listing.items.append(
                Item(
                    id=Path(row["path"]).stem,
                    path=root / row["path"],
                    split=name,
                    speaker=row["speakerId"],
                    sex=sexes.get(row["speakerId"]),
                    text=row["transcription"],
                    language="en",
                    labels={"slots": {slot: row[slot] for slot in SLOTS}},
                )
            )
    return listing


def _root(folder: Path) -> Path:
    """Return the folder that holds ``data``: ``folder`` itself, or the first one inside."""
    tables = [*find(folder, "data/train_data.csv"), *find(folder, "*/data/train_data.csv")]
    return tables[0].parent.parent


def _sexes(path: Path) -> dict[str, str]:
    """Return f or m for each speaker whose demographics say so."""
    if not path.is_file():
        return {}
    known = {"female": "f", "male": "m"}
    rows = _rows(path, ("speakerId", "gender"), [])
    return {r["speakerId"]: known[r["gender"]] for r in rows if r["gender"] in known}


def _rows(path: Path, columns: Sequence[str], problems: list[str]) -> list[dict[str, str]]:
    """Return the rows of a table; append to ``problems`` which do not fit its header."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; Fluent Speech Commands has it.")
    reader = csv.reader(io.StringIO(read_text(path)), strict=True)
    rows = []
    try:
        header = next(reader, [])
        for column in columns:
            if column not in header:
                raise UserError(f"{path} has no column {column!r}; it has {', '.join(header)}.")
        for fields in reader:
            if len(fields) == len(header):
                rows.append(dict(zip(header, fields, strict=True)))
            elif fields:
                problems.append(
                    f"{path} line {reader.line_num} has {len(fields)} fields where the header has "
                    f"{len(header)}"
                )
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}, is no CSV: {error}.") from error
    return rows
