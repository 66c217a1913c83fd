"""What is exported parses back, and says no more than the records do."""

import io
import json
import math
import re
from dataclasses import replace

import pandas as pd
import pytest

from auscult.record import Record
from auscult.results.cell import cell
from auscult.results.curve import Point
from auscult.results.table import (
    BEST_COLUMNS,
    best_rows,
    layer_tables,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
)


def test_csv_parses_back(records: list[Record]) -> None:
    found = pd.read_csv(io.StringIO(to_csv(records)), float_precision="round_trip")
    assert len(found) == len(records)
    assert set(found.columns) == set(records[0].to_dict())
    assert found["value"].tolist() == [r.value for r in records]
    assert found["num_speakers"].tolist() == [r.num_speakers for r in records]
    assert json.loads(found["config"][0]) == records[0].config


def test_csv_keeps_counts_whole(records: list[Record]) -> None:
    text = to_csv([records[0], replace(records[1], num_speakers=None)])
    assert ".0," not in text.replace(str(records[0].value), "")


def test_json_parses_back(records: list[Record]) -> None:
    found = json.loads(to_json(records))["records"]
    assert [Record.from_dict(flat) for flat in found] == records


def test_one_table_for_each_task_metric_and_probe(records: list[Record]) -> None:
    tables = layer_tables(records)
    assert len(tables) == 2 * 2 * 3
    first = tables[0]
    assert first.title == "keyword on demo (synthetic speech), test: accuracy, linear"
    assert first.cells.index.tolist() == [str(layer) for layer in range(13)]
    assert first.cells.columns.tolist() == ["fbank", "random(hubert_base)", "hf:hubert-base-ls960"]
    assert first.cells.iloc[0, 0] == "0.563 [0.503, 0.623]"
    assert first.cells.iloc[1, 0] == ""
    for part in ("320 items", "6 speakers", "majority class 0.100", "2 seeds"):
        assert part in first.caption


def test_items_left_out_are_said(records: list[Record]) -> None:
    (table,) = layer_tables([replace(records[0], num_skipped=3)])
    assert "3 items left out" in table.caption


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.5, "", "0.500"),
        (0.012345, "bit", "0.01235"),
        (0.02, "bit", "0.02000"),
        (9e7, "parameter", "90,000,000"),
    ],
)
def test_cells(value: float, unit: str, text: str) -> None:
    point = Point(0, None, value, None, None, None, 1)
    assert cell(point, unit) == text
    assert cell(replace(point, low=value, high=value), unit) == f"{text} [{text}, {text}]"


def test_the_best_layer_is_the_lowest_that_dev_prefers(records: list[Record]) -> None:
    """Dev ties at layers 2 and 10, which sort the other way as text; test prefers another."""
    wanted = ("random(hubert_base)", "phone39", "linear")
    test = [r for r in records if (r.upstream, r.task, r.probe) == wanted]
    dev = [replace(r, split="dev", value=0.9 if r.layer in (2, 10) else 0.1) for r in test]
    dev = [replace(r, low=None, high=None, corpus_sha256="d" * 64) for r in dev]
    rows = best_rows([*reversed(test), *dev])
    point = 0.45 + math.sin(3 * math.pi / 14) * 0.05 + 0.002  # of layer 2, mean over seeds
    scores = [f"{point:.3f}", f"{point - 0.03:.3f} - {point + 0.03:.3f}", f"{point - 0.05:.3f}"]
    rest = ["random(hubert_base)", "linear", "2", *scores, "0.080", 51_211, 24]
    assert rows == [["phone39", *rest]]
    assert len(rows[0]) == len(BEST_COLUMNS)


def test_best_rows_do_without_dev_intervals_and_macro(records: list[Record]) -> None:
    bare = [replace(r, low=None, high=None, majority=None) for r in records if r.layer in (0, 1)]
    rows = best_rows(r for r in bare if r.metric == "accuracy")
    assert len(rows) == 3 * 2 * 3  # encoders, tasks, probes
    by_name = {tuple(row[:3]): row[3:8] for row in rows}
    assert by_name["keyword", "fbank", "mlp1"] == ["0", "0.623", None, None, None]
    assert by_name["keyword", "random(hubert_base)", "mlp1"][0] == "1*"  # picked on test


def test_markdown_parses_back(records: list[Record]) -> None:
    hostile = [replace(r, upstream="a|b") for r in records if r.upstream == "fbank"]
    text = to_markdown(hostile)
    rows = [line for line in text.splitlines() if line.startswith("| 0 |")]
    assert len(rows) == 2 * 2 * 3
    assert r"| layer | a\|b |" in text


def test_latex_is_escaped(records: list[Record]) -> None:
    hostile = [replace(r, upstream=r"50%_of&{a}~^\x#$<") for r in records[:1]]
    text = to_latex(hostile)
    expected = r"50\%\_of\&\{a\}\textasciitilde{}\textasciicircum{}\textbackslash{}x\#\$\textless{}"
    assert expected in text
    for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption"):
        assert rule in text
    body = text.replace(expected, "")
    assert not re.search(r"(?<!\\)[%_#$^~]", body)
    assert re.search(r"\\\\\s*\[", text) is None  # would be read as a length
