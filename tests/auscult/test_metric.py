"""Which way is better: of our metrics, of other people's, and in stores of tasks that we lack."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import auscult
import auscult.studies as studies
from auscult.contracts import TaskSpec
from auscult.metric import DIRECTIONS, direction_of, direction_of_record
from auscult.probing import ProbeTask
from auscult.record import Provenance, Record
from auscult.results.curve import chooser, gather
from auscult.results.superb.score import COLUMNS
from auscult.score import Score, record_of

RUN = Provenance(command="x", created="now", code_version="0", libraries={}, device="cpu")


def spec(**about: Any) -> TaskSpec:
    return TaskSpec(name="mine", version=1, output="frame", metrics=("edits", "accuracy"), **about)


def record(
    metric: str,
    task: TaskSpec,
    value: float = 0.5,
    layer: int = 0,
    split: str = "test",
    **more: Any,
) -> Record:
    encoder = SimpleNamespace(
        origin="",
        record_fields=lambda: {"upstream": "e", "upstream_sha256": "e", "num_parameters": 1},
    )
    corpus = SimpleNamespace(spec="c", sha256={"test": "s", "dev": "d"}, tested="test", origin="")
    return record_of(
        Score(metric=metric, value=value, num_items=3, num_speakers=None),
        encoder=encoder,  # type: ignore[arg-type]
        corpus=corpus,  # type: ignore[arg-type]
        split=split,
        task=task,
        layer=layer,
        probe="linear",
        seed=0,
        config={},
        provenance=RUN,
        **more,
    )


def test_every_metric_of_ours_has_a_direction() -> None:
    from auscult.downstreams import TASKS
    from auscult.probing.task import METRICS
    from auscult.studies.criterion import DISTILLATION
    from auscult.studies.divergence import TASK

    specs = [*(task.spec for task in TASKS.values()), DISTILLATION, TASK]
    metrics = {metric for one in specs for metric in one.metrics} | set(METRICS)
    assert len(metrics) > 10 and metrics <= set(DIRECTIONS)
    for column in COLUMNS:
        assert (DIRECTIONS[column.metric] == "lower") == column.is_error


def test_a_record_says_it_of_a_metric_that_is_not_ours() -> None:
    """A reader of the store has no task of somebody else's."""
    task = spec(direction="lower")
    edits, accuracy = record("edits", task), record("accuracy", task)
    assert Record.from_dict(edits.to_dict()).config == {"direction": "lower"}
    assert accuracy.config == {}  # ours is what it is
    assert [direction_of_record(x) for x in (edits, accuracy)] == ["lower", "higher"]
    assert record("edits", spec()).key == replace(edits, config={}).key  # as before


@pytest.mark.parametrize("said", ["up", {"a": 1}, None, 3])
def test_a_store_that_says_nonsense_says_nothing(said: Any) -> None:
    found = replace(record("edits", spec()), config={"direction": said})
    assert direction_of_record(found) == "higher"
    assert direction_of_record(replace(found, unit="ms")) == ""


def test_directions_of_quantities() -> None:
    assert direction_of("seconds", "s") == "lower" and direction_of("jsd_all_pairs", "bit") == ""
    assert direction_of("bits_saved", "bit") == "" and direction_of("bits_saved") == "higher"
    assert direction_of("bits_saved", "bit", "higher") == "higher"
    with pytest.raises(ValueError, match=r"direction of mine: expected higher, lower or nothing"):
        spec(direction="up")


def test_dev_chooses_by_a_quantity() -> None:
    """Bits and milliseconds choose a layer where they know which is better."""
    values = {("dev", 0): 3.0, ("dev", 1): 2.0, ("test", 0): 2.5, ("test", 1): 2.6}
    for direction, wanted in (("lower", 1), ("higher", 0), ("", None)):
        task = spec(direction=direction)
        records = [
            record("edits", task, value, layer, split, unit="ms")
            for (split, layer), value in values.items()
        ]
        curves = gather(records)
        shown = next(curve for curve in curves if curve.first.split == "test")
        choice = chooser(curves)(shown)
        assert (choice.point.layer if choice else None) == wanted
        assert choice is None or (choice.chosen_on, choice.lower_is_better) == (
            "dev",
            direction == "lower",
        )


def test_a_task_that_somebody_has_says_it_in_its_records(tones: Path) -> None:
    """From an object in Python to the record, by way of an item's values."""
    task = ProbeTask(
        replace(spec(direction="lower"), output="utterance", metrics=("accuracy", "edits")),
        "keyword",
    )
    options: dict[str, Any] = {"probes": ("linear",), "max_epochs": 2, "baselines": False}
    found = studies.probe("fbank", f"tsv:{tones}", task, layers="0", **options)
    said = {record.metric: record.config.get("direction") for record in found.records}
    assert said == {"accuracy": None, "edits": "lower"}


def test_the_face_has_what_the_studies_offer() -> None:
    names = ("compare", "findings", "plan_superb", "report", "search", "superb")
    assert all(getattr(auscult, name) is getattr(studies, name) for name in names)
