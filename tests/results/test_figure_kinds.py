"""The table of kinds: what draws them, and where the page has them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from auscult.record import Artifact
from auscult.results import figure
from auscult.results.figure import drawing


def test_every_kind_is_drawn_and_has_its_section(
    make_divergence: Callable[..., Artifact], make_weights: Callable[..., Artifact], tmp_path: Path
) -> None:
    made = [make_divergence(heads=2, layers=2), make_weights()]
    assert {artifact.kind for artifact in made} == set(figure.KINDS)
    for artifact in made:
        paths = figure.draw(artifact, tmp_path)
        assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
        kind = figure.KINDS[artifact.kind]
        assert len(paths) == len(kind.figures) and all(
            hasattr(drawing, f) for f in kind.figures.values()
        )
        assert all(path.name.startswith(f"{kind.stem}_") for path in paths)
    found = figure.sections([("one", made[0]), ("two", made[1]), ("three", made[1])])
    assert {name: [x["label"] for x in rows] for name, rows in found.items()} == {
        "maps": ["one"],
        "weights": ["two · keyword_spotting", "three · keyword_spotting"],
    }
    json.dumps(found, allow_nan=False)


def test_a_kind_of_a_later_release_has_no_section(make_weights: Callable[..., Artifact]) -> None:
    unknown = replace(make_weights(), kind="spectrogram")
    assert figure.sections([("one", unknown)]) == {"maps": [], "weights": []}
    with pytest.raises(KeyError):
        figure.draw(unknown, Path())
