"""Finished scores on disk, so that a killed sweep goes on at the layer where it was."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from auscult.whole_file import whole_file

from .bank import ProbeScore
from .probe import ProbeKey

Scores = dict[str, list[ProbeScore]]


def write_scores(scores: Mapping[str, list[ProbeScore]], path: Path) -> None:
    """Write the scores of both splits to one file, whole or not at all."""
    arrays: dict[str, np.ndarray] = {}
    index: list[dict[str, Any]] = []
    for split, found in scores.items():
        for score in found:
            name = str(len(index))
            index.append({"split": split, "key": asdict(score.key), "epochs": score.epochs})
            arrays |= {f"correct_{name}": score.correct, f"total_{name}": score.total}
            arrays[f"items_{name}"] = np.array(score.items)
    arrays["index"] = np.array(json.dumps(index))
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_scores(path: Path) -> Scores | None:
    """Return what :func:`write_scores` wrote, or None where there is no such file."""
    if not path.exists():
        return None
    scores: Scores = {}
    with np.load(path, allow_pickle=False) as file:
        for name, row in enumerate(json.loads(str(file["index"]))):
            key = ProbeKey(**row["key"])
            items = tuple(int(i) for i in file[f"items_{name}"])
            counts = file[f"correct_{name}"], file[f"total_{name}"]
            scores.setdefault(row["split"], []).append(
                ProbeScore(key, *counts, items, row["epochs"])
            )
    return scores
