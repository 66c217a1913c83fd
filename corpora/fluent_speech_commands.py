"""``fluent_speech_commands:DIR``: Fluent Speech Commands, three intent slots."""

import csv
from pathlib import Path

from auscult.errors import UserError

from .item import Item, Listing

PARTS = {"train": "train_data.csv", "dev": "valid_data.csv", "test": "test_data.csv"}
SLOTS = ("action", "object", "location")


def read(folder: Path, split: str | None) -> Listing:
    """List the utterances of ``folder``.

    Raises:
        UserError: A table or one of its columns is missing.
    """
    root = next(path.parent.parent for path in _first_table(folder))
    sexes = _sexes(root / "data" / "speaker_demographics.csv")
    listing = Listing([], expected=tuple(PARTS))
    for name, table in PARTS.items():
        for row in _rows(root / "data" / table, ("path", "speakerId", "transcription", *SLOTS)):
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


def _first_table(folder: Path) -> list[Path]:
    return [*folder.glob("data/train_data.csv"), *sorted(folder.glob("*/data/train_data.csv"))]


def _sexes(path: Path) -> dict[str, str]:
    """Return f or m for each speaker whose demographics say so."""
    if not path.is_file():
        return {}
    known = {"female": "f", "male": "m"}
    rows = _rows(path, ("speakerId", "gender"))
    return {r["speakerId"]: known[r["gender"]] for r in rows if r["gender"] in known}


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path} does not exist; Fluent Speech Commands has it.")
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for column in columns:
        if rows and column not in rows[0]:
            raise UserError(f"{path} has no column {column!r}; it has {', '.join(rows[0])}.")
    return rows
