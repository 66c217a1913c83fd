"""Finished scores on disk, so that a killed sweep goes on at the layer where it was."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from auscult import kept
from auscult.record import Provenance

from .bank import ProbeScore
from .probe import ProbeKey

Scores = dict[str, list[ProbeScore]]


def write_scores(scores: Mapping[str, Sequence[ProbeScore]], path: Path) -> None:
    """Write the scores of both splits to one file, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    index: list[dict[str, Any]] = []
    for split, found in scores.items():
        for score in found:
            name = str(len(index))
            run = None if score.provenance is None else asdict(score.provenance)
            row = {"split": split, "key": asdict(score.key), "epochs": score.epochs}
            index.append({**row, "provenance": run})
            arrays |= {f"correct_{name}": score.correct, f"total_{name}": score.total}
            arrays[f"items_{name}"] = np.array(score.items)
    arrays["index"] = np.array(json.dumps(index))
    kept.write_arrays(arrays, path)


def read_scores(path: Path) -> Scores | None:
    """Return what :func:`write_scores` wrote; None where it is missing or was damaged."""
    arrays = kept.read_arrays(path)
    if arrays is None:
        return None
    scores: Scores = {}
    for name, row in enumerate(json.loads(str(arrays["index"]))):
        run = row["provenance"]
        score = ProbeScore(
            key=ProbeKey(**row["key"]),
            correct=arrays[f"correct_{name}"],
            total=arrays[f"total_{name}"],
            items=tuple(int(i) for i in arrays[f"items_{name}"]),
            epochs=row["epochs"],
            provenance=None if run is None else Provenance(**run),
        )
        scores.setdefault(row["split"], []).append(score)
    return scores
