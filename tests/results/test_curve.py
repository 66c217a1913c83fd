"""Curves average over seeds and over nothing else; layers are chosen where they may be."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from auscult.record import Record
from auscult.results.curve import (
    Choice,
    Curve,
    chooser,
    corpus_label,
    gather,
    held_out,
    short_names,
    subject_names,
)


def only(records: Sequence[Record], **wanted: object) -> list[Record]:
    return [r for r in records if all(getattr(r, k) == v for k, v in wanted.items())]


def configured(record: Record, **settings: object) -> Record:
    """The record with settings, and with a learning rate that is its layer's own."""
    layer = record.layer if isinstance(record.layer, int) else 99
    return replace(record, config={**settings, "learning_rate": 0.1**layer})


def chosen(curve: Curve, curves: Sequence[Curve]) -> Choice:
    found = chooser(curves)(curve)
    assert found is not None
    return found


@pytest.fixture
def one(records: list[Record]) -> list[Record]:
    """One encoder's curve: 13 layers, 2 seeds."""
    hubert = only(records, upstream="random(hubert_base)", task="phone39")
    return only(hubert, probe="linear", metric="accuracy")


def test_points_are_means_over_seeds(one: list[Record]) -> None:
    (curve,) = gather(reversed(one))
    assert [point.layer for point in curve.layers] == list(range(13))
    assert curve.label == "random(hubert_base)" and not curve.is_flat
    first, second = sorted(only(one, layer=4), key=lambda r: r.seed)
    point = curve.points[4]
    assert point.num_seeds == 2
    assert point.value == pytest.approx((first.value + second.value) / 2)
    assert point.low == pytest.approx(point.value - 0.03)
    assert point.spread == pytest.approx(abs(first.value - second.value) / 2**0.5)


def test_whatever_else_differs_is_another_curve(records: list[Record]) -> None:
    assert len(gather(records)) == 3 * 2 * 3 * 2  # upstreams, tasks, probes, metrics


def test_layers_come_before_the_sum_and_the_model(one: list[Record]) -> None:
    extra = [replace(one[0], layer=layer, head=head) for layer, head in ((None, None), (3, 1))]
    (curve,) = gather([replace(one[0], layer="weighted"), *extra, *one])
    places = [(point.layer, point.head) for point in curve.points]
    assert places[3:6] == [(3, None), (3, 1), (4, None)]
    assert places[-2:] == [("weighted", None), (None, None)]
    assert len(curve.layers) == 13


def test_commands_that_measured_other_layers_complete_a_curve(one: list[Record]) -> None:
    later = replace(one[0].provenance, created="2027-01-01T00:00:00+00:00")
    parts = [replace(r, provenance=later) if r.layer in (1, 2) else r for r in one]
    assert len(gather(parts)) == 1


def test_other_configurations_are_told_apart(one: list[Record]) -> None:
    later = replace(one[0].provenance, created="2027-01-01T00:00:00+00:00")
    slow = [configured(r, max_epochs=9, dev_sha256="9" * 64) for r in one]
    fast = [configured(r, max_epochs=2, dev_sha256="2" * 64) for r in one]
    slow = [replace(r, provenance=later) for r in slow]
    assert sorted(curve.label for curve in gather(fast + slow)) == [
        "random(hubert_base) (dev_sha256=22222222, max_epochs=2)",
        "random(hubert_base) (dev_sha256=99999999, max_epochs=9)",
    ]


def test_seeds_of_other_configurations_are_not_averaged(one: list[Record]) -> None:
    """`run --seed 0` with all steps beside `run --seed 1 --steps 300`."""
    long, short = (replace(one[0], layer="weighted", seed=seed) for seed in (0, 1))
    long = replace(configured(long, total_steps=200_000), value=0.9)
    short = replace(configured(short, total_steps=300), value=0.1)
    curves = gather([long, short])
    assert [(c.label, [p.value for p in c.points]) for c in curves] == [
        ("random(hubert_base) (total_steps=200000)", [0.9]),
        ("random(hubert_base) (total_steps=300)", [0.1]),
    ]


def test_layers_of_other_configurations_are_not_joined(one: list[Record]) -> None:
    """`--layers 0 --pooling mean` beside `--layers 1 --pooling statistics`."""
    first = [configured(r, pooling="mean") for r in only(one, layer=0)]
    second = [configured(r, pooling="statistics") for r in only(one, layer=1)]
    assert [(c.label, c.layer_numbers) for c in gather(first + second)] == [
        ("random(hubert_base) (pooling=mean)", [0]),
        ("random(hubert_base) (pooling=statistics)", [1]),
    ]


def test_dev_of_another_configuration_chooses_nothing(one: list[Record]) -> None:
    test = [configured(r, pooling="mean") for r in one]
    dev = [replace(configured(r, pooling="statistics"), split="dev") for r in one]
    first, _ = gather([*test, *dev])
    assert chosen(first, gather([*test, *dev])).optimistic


def test_runs_of_one_configuration_are_told_apart(one: list[Record]) -> None:
    """One setting, but dev chose another learning rate: both records are kept."""
    later = replace(one[0].provenance, created="2027-01-01T00:00:00+00:00")
    rates = [0.1, 0.01] * len(one)
    again = [
        replace(r, config={"learning_rate": rate}, provenance=later)
        for r, rate in zip(one, rates, strict=False)
    ]
    third = replace(one[0], config={"batch_size": 8})
    labels = [curve.label for curve in gather([*one, *again, third])]
    assert len(set(labels)) == 3 and labels[2] == "random(hubert_base) (batch_size=8)"


def test_other_conventions_of_one_name_are_told_apart(one: list[Record]) -> None:
    other = [replace(r, convention="block_input, final_norm") for r in one]
    assert {curve.label for curve in gather(one + other)} == {
        "random(hubert_base) (layers: unknown)",
        "random(hubert_base) (layers: block_input, final_norm)",
    }


def test_other_weights_of_one_name_are_told_apart(one: list[Record]) -> None:
    other = [replace(r, upstream_sha256="f" * 64) for r in one]
    labels = {curve.label for curve in gather(one + other)}
    assert "random(hubert_base) (weights ffffffff)" in labels and len(labels) == 2


def test_the_layer_is_chosen_on_dev(one: list[Record]) -> None:
    flat = [replace(r, value=0.5, low=0.4, high=0.6) for r in one]
    test = [replace(r, value=0.7) if r.layer == 2 else r for r in flat]
    dev = [replace(r, split="dev", corpus_sha256="d" * 64) for r in flat]
    dev = [replace(r, value=0.8) if r.layer == 9 else r for r in dev]
    curves = gather(test + dev)
    (reported,) = gather(held_out(test + dev))
    choice = chosen(reported, curves)
    assert (choice.point.layer, choice.point.value, choice.chosen_on) == (9, 0.5, "dev")
    assert not choice.optimistic
    picked = chosen(reported, [reported])  # without dev: what flatters, and it is said
    assert (picked.point.layer, picked.chosen_on, picked.optimistic) == (2, "test", True)


def test_error_rates_are_best_when_small(one: list[Record]) -> None:
    errors = [replace(r, metric="wer", value=0.9 - 0.01 * r.seed) for r in one]
    errors += [replace(errors[0], layer=20, value=0.1)]
    (curve,) = gather(errors)
    assert chosen(curve, [curve]).point.layer == 20


def test_bits_have_no_best(one: list[Record]) -> None:
    (curve,) = gather([replace(r, metric="jsd_all_pairs", unit="bit") for r in one])
    assert chooser([curve])(curve) is None


def test_one_representation_leaves_nothing_to_choose(records: list[Record]) -> None:
    fbank = only(records, upstream="fbank", task="keyword", probe="mlp1", metric="accuracy")
    (curve,) = gather(fbank)
    assert curve.is_flat
    assert chosen(curve, [curve]).chosen_on == ""


def test_scores_on_the_selecting_split_are_held_back(one: list[Record]) -> None:
    dev = [replace(r, split="dev") for r in one]
    assert held_out(one + dev) == one
    other = [replace(r, task="speaker") for r in dev]
    assert held_out(one + dev + other) == one + other


def test_short_names() -> None:
    names = ["hf:/models/a/hubert", "hf:/models/b/hubert", "random(hf:x/wavlm@s)", "fbank", "hf:y/"]
    assert short_names(names) == {
        "hf:/models/a/hubert": "hf:/models/a/hubert",
        "hf:/models/b/hubert": "hf:/models/b/hubert",
        "random(hf:x/wavlm@s)": "random(hf:wavlm@s)",
        "fbank": "fbank",
        "hf:y/": "hf:y/",
    }


def test_a_long_name_is_shortened_at_once() -> None:
    """A name of 300,000 characters in a store kept the report busy for minutes."""
    name = "u" * 300_000
    assert short_names([f"hf:/a/{name}"]) == {f"hf:/a/{name}": f"hf:{name}"}


@pytest.mark.parametrize("corpus", ["demo", "demo:/cache"])
def test_synthetic_speech_is_called_so(corpus: str) -> None:
    assert corpus_label(corpus) == f"{corpus} (synthetic speech)"
    assert corpus_label("tsv:/data/demo") == "tsv:/data/demo"


def test_dev_scores_of_another_run_choose_nothing(one: list[Record]) -> None:
    other = replace(one[0].provenance, created="2027-01-01T00:00:00+00:00")
    dev = [replace(r, split="dev", provenance=other) for r in one]
    test, _ = gather([*one, *dev])
    assert chosen(test, gather([*one, *dev])).optimistic


def test_states_of_a_corpus_are_told_apart(one: list[Record]) -> None:
    mended = [replace(r, corpus_sha256="e" * 64) for r in one]
    assert list(subject_names(gather(one)).values()) == ["phone39 on tsv:timit-sample, test"]
    names = subject_names(gather(one + mended)).values()
    assert "phone39 on tsv:timit-sample, test (version 1, eeeeeeee)" in names and len(names) == 2
