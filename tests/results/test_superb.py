"""SUPERB's scores against every published one, and own results beside them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from auscult.errors import UserError
from auscult.record import Provenance, Record
from auscult.results.superb.official import OFFICIAL
from auscult.results.superb.score import (
    COLUMNS,
    TASKS,
    WITH_LM,
    Cell,
    Row,
    find_published,
    missing_columns,
    overall_columns,
    overall_tasks,
    published,
    superb_r,
    superb_s,
    superb_s_interval,
)
from auscult.results.superb.table import WRITERS, flat_rows, own_rows, tables

SCORES = {  # as published, or as the leaderboard's own code gives them
    "FBANK": 0.0,
    "Mockingjay": 53.7,
    "TERA": 149.9,
    "wav2vec 2.0 Base": 818.1,
    "wav2vec 2.0 Large": 913.6,
    "HuBERT Base": 941.0,
    "HuBERT Large": 918.6,
    "DistilHuBERT": 717.4,
    "WavLM Base": 1018.8,
    "WavLM Base+": 1106.2,
    "WavLM Large": 1144.5,
    "LightHuBERT Small": 901,
    "LightHuBERT Stage 1": 959,
}
POINTS = {  # HuBERT Base, by column
    **{"PR": 976.0, "KS": 993.5, "IC": 995.3, "SID": 873.6, "ER": 860.7, "ASR": 856.9},
    **{"QbE": 1000, "ASV": 1000, "SD": 941.3},
}
OVERALL = {"HuBERT Base": 80.8, "DistilHuBERT": 75.9, "LightHuBERT Small": 79.1}
PROTOCOLS = {
    task: {"total_steps": 1000, "batch_size": 4, "gradient_accumulate_steps": 2} for task in TASKS
}
HUBERT = find_published("hubert base")


@pytest.mark.parametrize("name", SCORES)
def test_published_scores_come_out(name: str) -> None:
    score = superb_s(find_published(name).values)
    assert score is not None
    if isinstance(SCORES[name], int):  # the leaderboard's own rounding
        assert round(score) == SCORES[name]
    assert score == pytest.approx(SCORES[name], abs=0.5 if isinstance(SCORES[name], int) else 0.06)


def test_every_published_model_has_a_source_and_a_score() -> None:
    assert len(published()) >= 20
    assert len({row.name for row in published()}) == len(published())
    for row in published():
        assert row.source and row.million_parameters is not None
        assert superb_s(row.values) is not None
        assert all(0 <= value <= 100 for value in row.values.values())


def test_points_and_score_of_hubert_base() -> None:
    points = {column.name: column.points(HUBERT.values[column.name]) for column in COLUMNS}
    for name, expected in POINTS.items():
        assert points[name] == pytest.approx(expected, abs=0.05)
    assert (points["SF-F1"] + points["SF-CER"]) / 2 == pytest.approx(913.1, abs=0.05)
    assert superb_s(HUBERT.values) == pytest.approx(941.04, abs=0.005)
    assert {c.name for c in COLUMNS if c.is_error} == {"PR", "ASR", "SF-CER", "ASV", "SD"}
    assert len(TASKS) == 10


def test_two_overall_means_are_two() -> None:
    for name, expected in OVERALL.items():
        mean = overall_columns(find_published(name).values)
        assert mean is not None and round(mean, 1) == expected
    assert overall_tasks(HUBERT.values) == pytest.approx(80.80, abs=0.005)
    assert overall_tasks(find_published("DistilHuBERT").values) == pytest.approx(76.38, abs=0.005)
    # by hand: errors as 100 minus themselves, recognition and slot filling averaged
    values = dict.fromkeys((c.name for c in COLUMNS), 50.0) | {WITH_LM: 30.0}
    assert overall_columns(values) == pytest.approx(50)
    assert overall_tasks(values) == pytest.approx((9 * 50 + 60) / 10)


@pytest.mark.parametrize("column", [column.name for column in COLUMNS])
def test_without_a_task_there_is_no_score(column: str) -> None:
    values = {name: v for name, v in HUBERT.values.items() if name != column}
    assert missing_columns(values) == [column]
    assert superb_s(values) is overall_columns(values) is overall_tasks(values) is None
    without_lm = {name: v for name, v in HUBERT.values.items() if name != WITH_LM}
    assert superb_s(without_lm) is not None and overall_tasks(without_lm) is None


def test_rank_counts_whom_a_model_beats() -> None:
    better = {c.name: HUBERT.values[c.name] - (1 if c.is_error else -1) for c in COLUMNS}
    partial = {"KS": 99.0}
    # ties share the lower rank, a missing task beats nobody and is beaten by nobody
    assert superb_r([HUBERT.values, better, HUBERT.values, partial]) == pytest.approx(
        [0, 2, 0, 0.3]
    )
    # slot filling counts once: each of its two metrics is half a task
    half = HUBERT.values | {"SF-CER": 0.0}
    assert superb_r([HUBERT.values, half]) == pytest.approx([0, 0.05])


def test_unknown_published_model_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean WavLM Large"):
        find_published("WavLM Lrge")


def test_interval_of_the_score_by_simulation() -> None:
    generator = np.random.default_rng(0)
    spread = {c.name: 0.01 * abs(c.best - c.fbank) for c in COLUMNS}
    cells = {
        name: Cell(v, v - 1.96 * spread[name], v + 1.96 * spread[name])
        for name, v in HUBERT.values.items()
        if name in spread
    }
    low, high = superb_s_interval(cells) or (math.nan, math.nan)
    common = {c.speech: generator.standard_normal(20_000) for c in COLUMNS}
    sampled = sum(  # what is on the same speech moves together, goodness up or down
        (1 / 20 if c.name.startswith("SF") else 1 / 10) * 10 * common[c.speech] for c in COLUMNS
    )
    expected = np.quantile(np.asarray(sampled), 0.975)
    score = superb_s(HUBERT.values)
    assert score is not None
    assert high - score == pytest.approx(score - low, rel=1e-6)
    assert high - score == pytest.approx(expected, rel=0.03)
    assert superb_s_interval({**cells, "KS": Cell(96.0)}) is None
    assert superb_s_interval({k: v for k, v in cells.items() if k != "KS"}) is None


@pytest.fixture
def official() -> Callable[..., list[Record]]:
    """Return a function that makes the records of a complete run on SUPERB's own data."""

    def make(**changes: Any) -> list[Record]:
        records = []
        for column in COLUMNS:
            folds = range(1, 6) if column.task == "emotion_recognition" else [0]
            for fold in folds:
                number = OFFICIAL[column.task].num_items
                value = HUBERT.values[column.name] / 100
                items = {1: 1085, 2: 1023, 3: 1151, 4: 1031, 5: 1241}.get(fold, number) or 99
                config = {**PROTOCOLS[column.task], "lexicon": "lexicon.txt"}
                config["split_column"] = (
                    f"fold{fold}" if fold else OFFICIAL[column.task].split_column
                )
                record = _record(
                    column.task, column.metric, value + 0.01 * (fold - 3 if fold else 0)
                )
                record = replace(record, config=config, num_items=items)
                records.append(replace(record, **changes))
        return records

    return make


def _record(task: str, metric: str, value: float) -> Record:
    return Record(
        upstream="hf:/models/mine",
        upstream_sha256="a" * 64,
        corpus=f"{OFFICIAL[task].reader}:/data/{task}",
        corpus_sha256="c" * 64,
        task=task,
        task_version=1,
        layer="weighted",
        probe="s3prl:head",
        metric=metric,
        value=value,
        low=value - 0.01,
        high=value + 0.01,
        split="test",
        selected_on="dev",
        num_items=1,
        seed=0,
        num_parameters=94_000_000,
        provenance=_run("2026-01-01"),
    )


def _run(day: str) -> Provenance:
    return Provenance(
        command=f"auscult run {day}", created=day, code_version="1", libraries={}, device="cpu"
    )


def _own(records: list[Record]) -> Row:
    (row,) = own_rows(records, PROTOCOLS)
    return row


def test_a_complete_official_run_scores_what_it_publishes(
    official: Callable[..., list[Record]],
) -> None:
    row = _own(official())
    assert (row.name, row.source, row.million_parameters) == ("hf:mine", "", 94)
    assert {name: cell.remarks for name, cell in row.cells.items() if cell.remarks} == {}
    assert superb_s(row.values) == pytest.approx(superb_s(HUBERT.values), abs=1e-9)
    # the folds are averaged, and their half-widths add in quadrature
    er = row.cells["ER"]
    assert er.value == pytest.approx(HUBERT.values["ER"])
    assert (er.num_items, er.setting) == (5531, "")
    assert er.low is not None and er.value - er.low == pytest.approx(math.sqrt(5) / 5)
    results, scores, particulars = tables([row], published(), find_published("WavLM Base"))
    assert results.rows[-1][:5] == ("hf:mine", "own", "94.0", "5.41", "96.30")
    assert scores.rows[-1][1] == "941.0" and " - " in scores.rows[-1][2]
    by_task = {line[1]: line for line in particulars.rows}
    assert by_task["PR"][4] == "+0.57" and by_task["SID"][4] == "-3.09"
    assert particulars.columns[4] == "minus WavLM Base"


BROKEN: list[tuple[str, Mapping[str, Any], str]] = [
    ("keyword_spotting", {"corpus": "tsv:/data/mine"}, "not on SUPERB's corpus (speech_commands)"),
    ("keyword_spotting", {"num_items": 4890}, "4,890 test items, not 3,081"),
    ("keyword_spotting", {"num_skipped": 2}, "2 items left out"),
    ("speech_recognition", {"config": {"total_steps": 200}}, "total_steps=200, not 1000"),
    ("speech_recognition", {"config": {"batch_size": 2}}, "utterances a step=4, not 8"),
    ("speech_recognition", {"config": {"finetuned": True}}, "the encoder was trained too"),
    ("speech_recognition", {"config": {"limit": 10}}, "limit=10"),
    ("speech_recognition", {"split": "test-other"}, "scored on test-other, not test"),
    (
        "speech_recognition",
        {"config": {"split_column": "all_train_split"}},
        "split column all_train_split, not split",
    ),
    (
        "phoneme_recognition",
        {"config": {"lexicon": ""}},
        "phones of an alignment, not of SUPERB's lexicon",
    ),
]


@pytest.mark.parametrize(("task", "changes", "remark"), BROKEN)
def test_what_cannot_be_compared_says_why_and_has_no_part(
    official: Callable[..., list[Record]], task: str, changes: Mapping[str, Any], remark: str
) -> None:
    records = [
        replace(r, **{**changes, "config": {**r.config, **changes.get("config", {})}})
        if r.task == task
        else r
        for r in official()
    ]
    row = _own(records)
    marked = {name: cell.remarks for name, cell in row.cells.items() if not cell.comparable}
    assert list(marked.values()) == [(remark,)]
    (column,) = marked
    assert missing_columns(row.values) == [column]
    assert superb_s(row.values) is None
    results, scores, particulars = tables([row], published(), HUBERT)
    assert sum(text.endswith("*") for text in results.rows[-1]) == 1
    assert scores.rows[-1][1:] == ("none: 9 of 10 tasks", "", "", "", "")
    line = next(line for line in particulars.rows if line[1] == column)
    assert line[4] == "" and line[-1] == remark
    assert flat_rows([row], published())[-1]["superb_s"] is None


def test_another_number_of_items_is_said_beside_other_reasons(
    official: Callable[..., list[Record]],
) -> None:
    records = [
        replace(r, num_items=99, corpus="tsv:/mine" if r.task == "keyword_spotting" else r.corpus)
        for r in official(num_skipped=2)
    ]
    cells = _own(records).cells
    assert cells["KS"].remarks == (
        "not on SUPERB's corpus (speech_commands)",
        "99 test items, not 3,081",
    )
    assert cells["PR"].remarks == ("2 items left out", "99 test items, not 2,620")
    assert cells["ER"].remarks == ("2 items left out", "495 test items, not 5,531")
    assert cells["QbE"].remarks == ("2 items left out",)  # no official number
    (fold,) = (r for r in records if r.config["split_column"] == "fold4")
    assert _own([fold]).cells["ER"].remarks[-1] == "99 test items, not 1,031"


def test_settings_that_superb_leaves_open(official: Callable[..., list[Record]]) -> None:
    records = [
        replace(
            r,
            config={**r.config, "learning_rate": 0.1, "batch_size": 8}
            | {"gradient_accumulate_steps": 1, "lm_weight": 9.0},
        )
        for r in official()
    ]
    assert all(cell.comparable for cell in _own(records).cells.values())


def test_folds_are_one_result_only_together(official: Callable[..., list[Record]]) -> None:
    records = [r for r in official() if r.config["split_column"] != "fold4"]
    cell = _own(records).cells["ER"]
    assert cell.remarks == ("one fold of five",) and cell.setting.startswith("fold ")
    # folds of different settings are not averaged
    records = [
        replace(r, config={**r.config, "total_steps": 5})
        if r.config["split_column"] == "fold4"
        else r
        for r in official()
    ]
    assert "one fold of five" in _own(records).cells["ER"].remarks


def test_of_several_runs_the_newest_is_shown_not_the_best() -> None:
    config = {**PROTOCOLS["keyword_spotting"], "split_column": "split"}
    first = replace(_record("keyword_spotting", "accuracy", 0.9), num_items=3081, config=config)
    later = replace(first, value=0.8, provenance=_run("2026-02-01"), config={**config, "x": 1})
    toy = replace(first, corpus="tsv:/data/toy", provenance=_run("2026-03-01"))
    for records in ([first, later, toy], [toy, later, first]):
        assert _own(records).cells["KS"].value == pytest.approx(80)
    seeds = [first, replace(first, seed=1, value=0.7)]
    assert _own(seeds).cells["KS"].value == pytest.approx(80)
    # scores on the split that selects are never results
    assert own_rows([replace(first, split="dev")], PROTOCOLS) == []
    assert own_rows([replace(first, task="phone39")], PROTOCOLS) == []


def test_language_model_counts_where_it_is_superbs() -> None:
    config = {**PROTOCOLS["speech_recognition"], "split_column": "split", "lm": "/x/4-gram.arpa.gz"}
    record = _record("speech_recognition", "wer_lm", 0.04)
    record = replace(record, num_items=2620, config=config)
    cell = _own([record]).cells[WITH_LM]
    assert cell.comparable and cell.value == pytest.approx(4)
    other = replace(record, config={**config, "lm": "mine.arpa"})
    assert _own([other]).cells[WITH_LM].remarks == ("language model mine.arpa, not 4-gram.arpa",)


@pytest.mark.parametrize("form", WRITERS)
def test_tables_for_papers_and_programs(form: str, official: Callable[..., list[Record]]) -> None:
    row = replace(_own(official()), name="mine_1 & more")
    text = WRITERS[form]([row], published(), HUBERT)
    assert "mine" in text and "WavLM Large" in text
    if form == "latex":
        assert r"mine\_1 \& more" in text and text.count(r"\begin{tabular}") == 3
        assert "↓" not in text and r"$\downarrow$" in text
    if form == "csv":
        assert len(text.splitlines()) == len(published()) + 2
        assert "941.0369" in text.splitlines()[-1]
