"""Figures of results: a table of the kinds of arrays, what draws each and where the page has it."""

import importlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auscult.record import Artifact

from .section import divergence, weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How arrays of one kind are shown."""

    stem: str  # that the names of its files begin with
    figures: Mapping[str, str]  # how these end -> what draws that, a function of figure.drawing
    section: str  # of the page
    data: Callable[[str, Artifact], dict[str, Any]]  # what that is drawn from


KINDS: Mapping[str, Kind] = {
    "attention_divergence": Kind(
        stem="attention",
        figures={"_same_head.png": "divergence_maps", "_all_pairs.png": "all_pairs_map"},
        section="maps",
        data=divergence,
    ),
    "layer_weights": Kind(
        stem="layer_weights",
        figures={".png": "layer_weights"},
        section="weights",
        data=weights,
    ),
}


def stem_of(artifact: Artifact) -> str:
    """Return what the names of an artifact's files begin with."""
    # The key tells apart specs that the file system would not, such as hf:a/b and hf:a-b.
    words = re.sub(r"[^A-Za-z0-9]+", "-", artifact.upstream).strip("-")[-60:]
    return f"{KINDS[artifact.kind].stem}_{words}_{artifact.key[:8]}"


def draw(artifact: Artifact, out: Path) -> list[Path]:
    """Write the figures of an artifact into a folder; return their paths."""
    drawing = importlib.import_module(".drawing", __name__)  # and matplotlib
    paths = []
    for ending, function in KINDS[artifact.kind].figures.items():
        paths.append(out / f"{stem_of(artifact)}{ending}")
        getattr(drawing, function)(artifact, paths[-1])
    return paths


def sections(labelled: Iterable[tuple[str, Artifact]]) -> dict[str, list[dict[str, Any]]]:
    """Return what the page draws, by its section, of artifacts and their names."""
    found: dict[str, list[dict[str, Any]]] = {kind.section: [] for kind in KINDS.values()}
    for label, artifact in labelled:
        if kind := KINDS.get(artifact.kind):
            found[kind.section].append(kind.data(label, artifact))
    return found
