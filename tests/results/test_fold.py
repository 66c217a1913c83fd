"""Folds and their mean, from records to what `auscult results show` prints."""

import json
from dataclasses import replace
from math import sqrt
from pathlib import Path

import pytest

from auscult.cli import main
from auscult.record import Record
from auscult.results import open_store
from auscult.results.curve import gather, subject_names
from auscult.results.fold import fold_means_of, fold_of

VALUES = {1: 0.5, 2: 0.6, 3: 0.7, 4: 0.8, 5: 0.4}


@pytest.fixture
def folds(records: list[Record]) -> list[Record]:
    """One head on five folds; what dev chose is another thing in each."""
    base = next(r for r in records if r.task == "keyword" and r.metric == "accuracy")
    return [
        replace(
            base,
            task="emotion_recognition",
            corpus="iemocap:/data/IEMOCAP",
            corpus_sha256=str(fold) * 64,
            layer="weighted",
            value=value,
            low=value - 0.1,
            high=value + 0.05,
            num_items=10 * fold,
            config={
                "split_column": f"fold{fold}",
                "total_steps": 7,
                "learning_rate": 10.0**-fold,
                "dev_sha256": f"{fold}",
            },
        )
        for fold, value in VALUES.items()
    ]


def test_the_mean_counts_each_fold_the_same(folds: list[Record]) -> None:
    (mean,) = fold_means_of(reversed(folds))
    assert mean.folds == (1, 2, 3, 4, 5) and mean.num_items == 150
    assert mean.point.value == pytest.approx(0.6)
    assert mean.point.low == pytest.approx(0.6 - 0.1 / sqrt(5))  # five equal ones in quadrature
    assert mean.point.high == pytest.approx(0.6 + 0.05 / sqrt(5))


def test_some_folds_are_named_and_one_is_no_mean(folds: list[Record]) -> None:
    (mean,) = fold_means_of([folds[1], folds[4]])
    assert mean.folds == (2, 5) and mean.point.value == pytest.approx(0.5)
    assert fold_means_of(folds[:1]) == []
    (mean,) = fold_means_of([replace(folds[0], low=None, high=None), *folds[1:]])
    assert mean.point.low is mean.point.high is None


def test_only_what_was_configured_alike_is_averaged(folds: list[Record]) -> None:
    def configured(record: Record, **changes: object) -> Record:
        return replace(record, config={**record.config, **changes})

    others = [configured(r, total_steps=8) for r in folds[:2]]
    assert [mean.folds for mean in fold_means_of([*folds, *others])] == [(1, 2, 3, 4, 5), (1, 2)]
    for change in (
        {"upstream_sha256": "b" * 64},
        {"corpus": "tsv:/data/mine"},
        {"metric": "macro_accuracy"},
        {"task_version": 2},
    ):
        strange = [replace(folds[0], **change), *folds[1:]]  # type: ignore[arg-type]
        assert [mean.folds for mean in fold_means_of(strange)] == [(2, 3, 4, 5)]
    assert fold_means_of(configured(r, split_column="split") for r in folds) == []


def test_a_fold_that_was_run_again_counts_once(folds: list[Record]) -> None:
    later = replace(folds[0].provenance, created="2027-01-01T00:00:00+00:00")
    again = replace(
        folds[0], value=0.3, low=0.3, high=0.3, provenance=later,
        config={**folds[0].config, "learning_rate": 1.0},
    )  # fmt: skip
    for records in ([again, *folds], [*folds, again]):
        (mean,) = fold_means_of(records)
        assert mean.point.value == pytest.approx(0.56)


@pytest.mark.parametrize(
    ("column", "fold"),
    [("fold3", 3), ("fold_3", 3), ("fold10", 10), ("split", 0), ("folds", 0), ("fold3b", 0)],
)
def test_a_fold_is_told_by_its_column(folds: list[Record], column: str, fold: int) -> None:
    assert fold_of(replace(folds[0], config={"split_column": column})) == fold


def test_folds_are_told_apart_by_name(folds: list[Record]) -> None:
    names = set(subject_names(gather(folds)).values())
    assert names == {f"emotion_recognition on iemocap:IEMOCAP, test of fold{n}" for n in VALUES}
    mended = replace(folds[0], corpus_sha256="e" * 64)  # of fold1 too
    names = set(subject_names(gather([*folds, mended])).values())
    assert {name[-24:] for name in names if "fold" not in name} == {
        "test (version 1, 11111111)"[-24:],
        "test (version 1, eeeeeeee)"[-24:],
    }


def test_it_is_shown(
    folds: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_store(tmp_path).add(folds)

    def said(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["auscult", "results", *words, str(tmp_path)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        return capsys.readouterr().out

    text = " ".join(said("show").split())  # titles are broken at the width of their table
    assert "test of fold3: accuracy" in text and "Means over folds" in text
    assert "0.600 [0.555, 0.622]" in text and "1, 2, 3, 4, 5" in text
    (mean,) = json.loads(said("show", "--json", "--quiet"))["fold_means"]
    assert mean["folds"] == "1, 2, 3, 4, 5" and mean["items"] == 150
    listed = [line for line in said("ls").splitlines() if "fold" in line]
    assert [f"fold{n}" in line for n, line in enumerate(listed, start=1)] == [True] * 5
    groups = json.loads(said("ls", "--json", "--quiet"))["groups"]
    assert [group["split_column"] for group in groups] == [f"fold{n}" for n in VALUES]
