"""How the terms of a loss go, by step: lines of JSON for all, and TensorBoard's curves."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from auscult.board import Board
from auscult.text import read_lines
from auscult.whole_file import write_text, writing

CURVE = "curve.jsonl"


class LossCurve:
    """Means of the terms by step, in the folder of a run.

    Args:
        folder: The run's.
        step: Updates that were made before.
        text: What the file held then; None where the checkpoint, of an older version, does not
            say: what stands in the folder after ``step`` is then forgotten.

    Raises:
        UserError: The disk is full, or the folder cannot be written; also whenever it is used.
    """

    def __init__(self, folder: Path, step: int, text: str | None = "") -> None:
        self._path = folder / CURVE
        self.text = _until(folder, step) if text is None else text  # of the whole file
        write_text(self.text, self._path)
        self._board = Board(folder / "tensorboard", step + 1)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note the values after ``step`` updates."""
        line = json.dumps({"step": step, **values}) + "\n"
        with writing(self._path), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        self.text += line
        self._board.add(step, values)

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._board.close()


def read_curve(folder: Path) -> Iterator[dict[str, float]]:
    """Yield the values that a run noted, by step; a line that a kill has torn is left out."""
    for line in read_lines(folder / CURVE):
        if math.isfinite(_step_of(line)):
            yield json.loads(line)


def _until(folder: Path, step: int) -> str:
    """Return the lines of steps up to ``step``, each step's first."""
    lines = read_lines(folder / CURVE) if (folder / CURVE).exists() else []
    found: dict[float, str] = {}
    for line in lines:
        if _step_of(line) <= step:
            found.setdefault(_step_of(line), f"{line}\n")
    return "".join(found[number] for number in sorted(found))


def _step_of(line: str) -> float:
    """Return the step that a line is about; infinity where a kill has torn it."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
