"""Scores on disk, so that a search goes on where it was killed."""

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.kept import sealed_line, sealed_rows
from auscult.progress import logger
from auscult.score import Score
from auscult.whole_file import write_text, writing

if TYPE_CHECKING:
    from auscult.upstreams.lighthubert.space import Subnet

_SCORE = tuple(field.name for field in fields(Score))


class ScoreLog:
    """Scores on disk, a line each, so that a search goes on where it was killed."""

    def __init__(self, path: Path, identity: str, code: str) -> None:
        """Read the scores of ``identity``; torn or damaged lines are dropped.

        Args:
            path: The file.
            identity: Of what the scores depend on beside subnet and code.
            code: Fingerprint of code and libraries; what others scored is measured again.
        """
        self._path, self._identity = path, identity
        self._about = {"identity": identity, "code": code}
        self._found: dict[tuple[str, str], Score] = {}
        others = set()
        for row in sealed_rows(path):
            key = row["split"], row["subnet"]
            if row["identity"] == identity and row["code"] == code:
                self._found[key] = Score(**{name: row[name] for name in _SCORE})
            elif row["identity"] == identity:
                others.add(key)
        if others := others - self._found.keys():
            logger.warning(
                f"{len(others)} scores in {path} were made by other code or libraries; they are "
                "measured again where they are needed."
            )

    def __len__(self) -> int:
        return len(self._found)

    def has(self, subnet: "Subnet", split: str) -> bool:
        """Say whether a score is there."""
        return (split, str(subnet)) in self._found

    def read(self, subnet: "Subnet", split: str) -> Score:
        """Return a score that is there."""
        return self._found[split, str(subnet)]

    def write(self, subnet: "Subnet", split: str, score: Score) -> None:
        """Write a score down.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        row = {**self._about, "split": split, "subnet": str(subnet), **asdict(score)}
        with writing(self._path), self._path.open("a") as file:
            file.write(sealed_line(row))
            file.flush()
            os.fsync(file.fileno())
        self._found[split, str(subnet)] = score

    def withdraw(self) -> None:
        """Remove the scores of this identity, which may be of other audio than it says."""
        rows = [row for row in sealed_rows(self._path) if row["identity"] != self._identity]
        write_text("".join(map(sealed_line, rows)), self._path)
        self._found = {}
