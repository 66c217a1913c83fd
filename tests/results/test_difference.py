"""Differences between encoders are kept whole, once each, and told apart."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from auscult.record import Artifact, Record
from auscult.results import open_store
from auscult.results.curve import gather
from auscult.results.difference import KIND, Difference, differences, fitting, flat_difference

Make = Callable[..., Artifact]


def test_a_difference_comes_out_of_the_store_as_it_went_in(
    make_difference: Make, make_weights: Make, tmp_path: Path
) -> None:
    third = 1 / 3
    written = make_difference(value=third, interval=(-0.1, np.nextafter(third, 1)))
    open_store(tmp_path).add([], [written, make_weights()])
    (found,) = open_store(tmp_path).artifacts(KIND)
    assert found.arrays["value"].shape == () and found.arrays["interval"].shape == (2,)
    assert found.key == written.key and found.provenance == written.provenance
    assert flat_difference(found) == flat_difference(written)
    flat = flat_difference(found)
    assert (flat["value"], flat["low"], flat["high"]) == (third, -0.1, np.nextafter(third, 1))
    assert (
        flat.items() >= {"over": "random(hubert_base)", "probe": "linear", "seeds": [0, 1]}.items()
    )
    assert "learning_rate" not in flat["config"]  # dev chose it, for each layer


def test_a_comparison_repeated_replaces_and_another_does_not(
    make_difference: Make, tmp_path: Path
) -> None:
    first = make_difference()
    store = open_store(tmp_path)
    store.add([], [first, make_difference(value=0.25, layers=(7, 1))])
    (kept,) = store.artifacts(KIND)
    assert kept.arrays["value"] == 0.25 and kept.arrays["chosen_layers"].tolist() == [7, 1]
    config = dict(first.meta["config"])
    others = [
        make_difference("fbank"),
        make_difference(task="keyword"),
        make_difference(seeds=1),
        replace(first, upstream_sha256="1" * 64),
        replace(first, corpus_sha256="1" * 64),
        *(
            replace(first, meta={**first.meta, **change})
            for change in (
                {"over_sha256": "1" * 64},
                {"probe": "mlp1"},
                {"task_version": 2},
                {"layers": [0]},
                {"config": {**config, "pooling": "statistics"}},
            )
        ),
    ]
    store.add([], others)
    assert len(store.artifacts(KIND)) == 1 + len(others)


def test_they_are_named_as_the_curves_beside_them(
    make_difference: Make, make_weights: Make, records: list[Record]
) -> None:
    artifacts = [make_difference(), make_difference("fbank"), make_weights()]
    found = differences(artifacts, gather(records))
    assert [(d.label, d.over) for d in found] == [
        ("hf:hubert-base-ls960", "fbank"),
        ("hf:hubert-base-ls960", "random(hubert_base)"),
    ]
    assert {d.subject for d in found} == {"phone39 on tsv:timit-sample, test"}
    assert {(d.layers, d.text) for d in found} == {("6 and 0", "+0.200 [+0.100, +0.300]")}
    (alone,) = differences([make_difference(task="keyword")], [])
    assert alone.subject == "keyword on demo (synthetic speech), test"
    assert differences([make_weights()], []) == []


def test_other_settings_of_one_comparison_are_said(make_difference: Make) -> None:
    found = differences([make_difference(), make_difference(seeds=1)], [])
    assert [d.label for d in found] == [
        "hf:hubert-base-ls960 (seeds=0)",
        "hf:hubert-base-ls960 (seeds=0-1)",
    ]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        *(((0.1, 0.3), True), ((-0.3, -0.1), True), ((-0.1, 0.3), False), ((0.0, 0.3), False)),
        ((0.2, 0.2), False),  # of one speaker
    ],
)
def test_an_interval_excludes_zero_or_does_not(
    interval: tuple[float, float], expected: bool, make_difference: Make
) -> None:
    assert Difference(make_difference(interval=interval), "", "", "").excludes_zero is expected


def test_those_that_fit_are_chosen(make_difference: Make, make_weights: Make) -> None:
    both = [make_difference(), make_difference(task="keyword")]
    assert fitting(both, {"task": "keyword", "probe": None, "split": "test"}) == both[1:]
    assert fitting(both, {"metric": "macro_accuracy"}) == []
