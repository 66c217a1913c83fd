"""The probing study: differences on the same resamples, plans, kept outcomes, processes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import auscult.studies as studies
from auscult.errors import UserError
from auscult.interval import quantiles
from auscult.probing import resolve_tasks
from auscult.record import Record
from auscult.score import Tally, resamples_of
from auscult.studies.company import company
from auscult.studies.comparison import differences
from auscult.studies.item import Item, Outcome, TallyKey
from auscult.studies.layer import _warn_alone
from auscult.studies.ledger import Ledger

SPEAKERS = ("a", "a", "b", "b", "c", "c", "d", "d")
TOTAL = np.full((8, 1), 50.0)
HARD = np.array([45, 44, 30, 31, 20, 19, 40, 42])[:, None] * 1.0  # right answers of the first


def tally(right: np.ndarray, items: Sequence[str] = "12345678") -> Tally:
    size = len(items)
    return Tally(
        right=right[:size], total=TOTAL[:size], items=tuple(items), speakers=SPEAKERS[:size]
    )


def outcome(
    name: str, *probes: tuple[int, int, float, np.ndarray], items: Sequence[str] = "12345678"
) -> Outcome:
    """An outcome of one probe on layers and seeds: (layer, seed, dev accuracy, right on test)."""
    tallies, records = {}, []
    for layer, seed, dev, right in probes:
        tallies[TallyKey("phone", "linear", layer, seed, "dev")] = tally(TOTAL * dev)
        tallies[TallyKey("phone", "linear", layer, seed, "test")] = tally(right, items)
        records.append(record(name, layer, seed))
    return Outcome(key=name, records=tuple(records), tallies=tallies)


def record(name: str, layer: int, seed: int) -> Record:
    flat: dict[str, Any] = {"upstream": name, "upstream_sha256": name, "corpus": "c"}
    flat |= {"corpus_sha256": "s", "task": "phone", "task_version": 1, "probe": "linear"}
    flat |= {"metric": "accuracy", "value": 0.5, "split": "test", "selected_on": "dev"}
    flat |= {"num_items": 8, "seed": seed, "layer": layer, "command": "x", "created": "now"}
    return Record.from_dict({**flat, "code_version": "0", "libraries": {}, "device": "cpu"})


def test_hard_speakers_are_hard_for_both() -> None:
    """The intervals of the two overlap widely; that of the difference is narrow."""
    one, other = outcome("one", (0, 0, 0.5, HARD + 2)), outcome("other", (0, 0, 0.5, HARD))
    (found,) = differences(one, other)
    assert found.arrays["value"] == pytest.approx(0.04)
    assert found.arrays["interval"] == pytest.approx([0.04, 0.04])
    low, high = quantiles(resamples_of("accuracy", tally(HARD + 2)))
    assert high - low > 0.1


def test_swapped_encoders_have_the_opposite_difference() -> None:
    one = outcome("one", (0, 0, 0.5, HARD + np.arange(8)[:, None]))
    other = outcome("other", (0, 0, 0.5, HARD))
    (found,), (swapped,) = differences(one, other), differences(other, one)
    low, high = found.arrays["interval"]
    assert low < found.arrays["value"] < high
    assert found.arrays["value"] == pytest.approx(-swapped.arrays["value"])
    assert [low, high] == pytest.approx(-swapped.arrays["interval"][::-1])


def test_dev_chooses_the_layer_and_seeds_are_averaged() -> None:
    layers = [(0, 0, 0.7, HARD), (1, 0, 0.9, HARD - 3), (1, 1, 0.6, HARD + 3)]
    (found,) = differences(outcome("one", *layers), outcome("other", (2, 0, 0.5, HARD - 1)))
    assert found.arrays["chosen_layers"].tolist() == [1, 2]
    assert found.arrays["value"] == pytest.approx(0.02)


def test_other_utterances_are_not_compared() -> None:
    one, fewer = outcome("one", (0, 0, 0.5, HARD)), outcome("two", (0, 0, 0.5, HARD), items="1")
    assert differences(one, fewer) == []


def test_company() -> None:
    names = ["hf:a", "random(hf:a)", "random(hf:a, seed=3)", "random(hf:b)", "log_mel", "toy(0)"]
    assert company("hf:a", names) == ["random(hf:a)", "random(hf:a, seed=3)", "log_mel"]
    assert company("log_mel", names) == [] and company("toy(0)", names) == ["log_mel"]


@pytest.mark.parametrize(
    ("speakers", "said"),
    [
        (["a", "a"], "one speaker"),
        ([None], "one utterance"),
        (["a"], "one utterance"),
        (["a", "b"], ""),
        ([None, None], ""),
    ],
)
def test_an_interval_of_one_is_warned_of(
    speakers: list[str | None], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    (task,) = resolve_tasks("speaker", [])
    ones = np.ones(len(speakers))
    _warn_alone(task, Tally.of_ratio(ones, ones, [str(x) for x in ones], speakers))
    assert bool(said) == bool(caplog.text) and said in caplog.text


OPTIONS: dict[str, Any] = {"probes": ("linear",), "max_epochs": 2, "baselines": False}


def numbers(found: studies.Findings) -> list[tuple[str, float, float | None, float | None]]:
    return [(r.key, r.value, r.low, r.high) for r in found.records]


@pytest.fixture
def corpus(tone_corpus: Callable[..., Path]) -> str:
    return f"tsv:{tone_corpus()}"


def test_from_python(corpus: str, toy: Any, tmp_path: Path) -> None:
    """An encoder that somebody has, two tasks; a table, the best layers, a figure, a page."""
    found = studies.probe(toy, corpus, ["phone", "keyword"], **OPTIONS)
    frame = found.to_pandas()
    assert len(frame) == len(found.records) == 2 * 3 * 2 * 2
    wanted = {"upstream", "corpus", "task", "probe", "layer", "seed", "metric", "split", "key"}
    assert wanted | {"value", "low", "high", "majority"} <= set(frame)
    assert set(frame.task) == {"phone", "keyword"} and set(frame.upstream) == {toy.spec.name}
    assert len(found.best()) == 2 and "<table" in found._repr_html_()
    assert found.plot(tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "plotly" in found.to_html(tmp_path / "page.html").read_text()
    found.save(tmp_path / "kept")
    assert (tmp_path / "kept" / "results.sqlite").is_file()
    assert frame.command[0].startswith("auscult.probe(toy(0), 'tsv:")


def test_finished_items_are_not_carried_out_again(corpus: str, toy: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = studies.probe(toy, corpus, "keyword", out=out, **OPTIONS)
    plan = studies.plan_probe(toy, corpus, ["keyword", "phone"], out=out, **OPTIONS)
    rows = plan.to_dicts()
    assert [row["state"] for row in rows] == ["to do", "there", "to do"]
    assert rows[0]["encoding_seconds_guessed"] > 0 and rows[0]["memory_bytes"] > 0
    frames = sum(
        cut.duration for x in plan.desk.corpus(corpus, None, None).splits.values() for cut in x
    )
    assert rows[0]["disk_bytes"] > frames * 50 and rows[1]["disk_bytes"] is None
    assert "to do" in plan._repr_html_()
    encoded = len(toy.encoded)
    again = studies.probe(toy, corpus, "keyword", out=out, **OPTIONS)
    assert numbers(again) == numbers(first) and len(toy.encoded) == encoded
    assert [r.provenance for r in again.records] == [r.provenance for r in first.records]


def test_the_ledger_keeps_tallies(corpus: str, toy: Any, tmp_path: Path) -> None:
    found = studies.probe(toy, corpus, "keyword", out=tmp_path, **OPTIONS)
    assert found.plan is not None
    (item,) = [item for item in found.plan.items if item.kept]
    outcome = Ledger(tmp_path).read(item)
    assert outcome is not None and len(outcome.tallies) == 3 * 2
    key = TallyKey("keyword", "linear", 2, 0, "test")
    counted = outcome.tallies[key]
    value = counted.right.sum() / counted.total.sum()
    (record,) = [
        r for r in found.records if (r.layer, r.split, r.metric) == (2, "test", "accuracy")
    ]
    assert record.value == value and set(counted.speakers) == {"s3", "s7"}


@pytest.mark.slow
def test_processes_give_the_same_numbers(corpus: str, tmp_path: Path) -> None:
    options = {**OPTIONS, "layers": "0"}
    words = (["fbank", "mfcc"], corpus, ["keyword", "phone"])
    one = studies.probe(*words, out=tmp_path / "one", **options)
    two = studies.probe(*words, out=tmp_path / "two", executor="local:2", **options)
    assert numbers(one) == numbers(two) and len(one.records) == 2 * 2 * 2 * 2
    with pytest.raises(UserError, match="expected serial or local:N"):
        studies.probe(*words, out=tmp_path / "one", executor="cloud", **options)


def test_one_failed_item_does_not_stop_the_others(
    corpus: str, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from auscult.studies import layer

    measure = layer.measure

    def failing(item: Any, desk: Any) -> Any:
        if item.what["task"] == "phone":
            raise UserError("No phones today.")
        return measure(item, desk)

    monkeypatch.setattr(layer, "measure", failing)
    found = studies.probe(toy, corpus, ["phone", "keyword"], out=tmp_path, **OPTIONS)
    assert {record.task for record in found.records} == {"keyword"}
    assert [failure.reason for failure in found.failures] == ["No phones today."]
    assert "No phones today." in found._repr_html_()
    with pytest.raises(UserError, match="No phones today"):
        studies.probe(toy, corpus, ["phone"], out=tmp_path / "other", **OPTIONS)


def test_a_finished_study_plans_nothing(corpus: str, toy: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"out": tmp_path / "out", **OPTIONS}
    studies.probe(toy, corpus, "keyword", **given)
    rows = studies.plan_probe(toy, corpus, "keyword", **given).to_dicts()
    assert [row["state"] for row in rows] == ["there", "there"]
    assert all(row["encoding_seconds_guessed"] is None for row in rows)


def test_an_outcome_of_many_readers_keeps_its_utterances_once(tmp_path: Path) -> None:
    """VoxCeleb1's 7,600 utterances under each of 300 readers would not fit a file's header."""
    items, speakers = tuple(f"id{i:05}-utterance" for i in range(7600)), ("s",) * 7600
    ones = np.ones((7600, 1))
    tally = Tally(right=ones, total=ones, items=items, speakers=speakers)
    tallies = {TallyKey("t", "linear", layer, 0, "test"): tally for layer in range(300)}
    item = Item(kind="probe", upstream={"address": "x"}, corpus={}, what={}, how={})
    ledger = Ledger(tmp_path)
    ledger.write(item, Outcome(key=item.key, records=(), tallies=tallies))
    found = ledger.read(item)
    assert found is not None and found.tallies.keys() == tallies.keys()
    assert next(iter(found.tallies.values())).items == items
    assert sum(path.stat().st_size for path in ledger.folder.iterdir()) < 2_000_000
