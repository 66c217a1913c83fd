"""Own SUPERB results beside published ones: what may be compared is, the rest says why not.

An own result may stand beside published ones where the corpus is the one that SUPERB uses, read by
its own reader with its official splits, the test set is complete, and the head was trained by the
published protocol; SUPERB leaves only the learning rate to choose. Anything else is shown, with the
reason, but has no difference to a published result and no part in a score.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from auscult.record import Record
from auscult.shown import csv_cell, latex_cell, markdown_cell

from ..curve import Choice, Curve, Point, chooser, gather, held_out, short_names
from ..fold import FoldMean, fold_means, fold_of
from .check import COUNTS
from .official import FIVE_FOLDS, OFFICIAL
from .score import (
    COLUMNS,
    TASKS,
    WITH_LM,
    Cell,
    Row,
    missing_columns,
    overall_columns,
    overall_tasks,
    superb_r,
    superb_s,
    superb_s_interval,
)

DECODING = {"lm_weight", "word_penalty", "beam_size", "beam_threshold"}  # with a language model
FREE = {"learning_rate", "save_step", "log_step", "lm", "lexicon"}  # open, no number, or a path
BATCH = ("batch_size", "gradient_accumulate_steps")  # their product is the protocol's
METRICS = (  # column, task, metric
    *((column.name, column.task, column.metric) for column in COLUMNS),
    (WITH_LM, "speech_recognition", "wer_lm"),
)
Protocols = Mapping[str, Mapping[str, Any]]  # task -> the published configuration
FOLDS = (1, 2, 3, 4, 5)
LANGUAGE_MODEL = "4-gram.arpa"  # of LibriSpeech, which SUPERB decodes with


@dataclass(frozen=True, slots=True)
class Table:
    """Text in rows and columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """Write it in GitHub's Markdown."""
        lines = [self.columns, ["---", *("---:" for _ in self.columns[1:])], *self.rows]
        cells = [[markdown_cell(word) for word in line] for line in lines]
        title = markdown_cell(self.title)
        return "\n".join([f"**{title}**", "", *(f"| {' | '.join(c)} |" for c in cells), ""])

    def latex(self) -> str:
        """Write it for a document that uses the package booktabs."""
        frame = pd.DataFrame([[latex_cell(w) for w in row] for row in self.rows])
        return frame.to_latex(
            header=[latex_cell(word) for word in self.columns],
            caption=latex_cell(self.title),
            column_format="l" + "r" * (len(self.columns) - 1),
            index=False,
            position="tb",
            escape=False,
        )


@dataclass(frozen=True, slots=True)
class _Found:
    """A result of one run, before the run to show is chosen."""

    cell: Cell
    created: str


def own_rows(records: Iterable[Record], protocols: Protocols) -> list[Row]:
    """Return one row for each encoder that has a result on a SUPERB task.

    Several runs of one task: those that may stand beside published results come first, the newest
    of them is shown, and never the best one, which would be a choice made on test. Seeds of one run
    are averaged.

    Args:
        records: Of any tasks and splits.
        protocols: What a run must have been configured as to be comparable.
    """
    curves = gather(r for r in records if r.task in TASKS and not r.unit)
    kept = {id(record) for record in held_out(r for c in curves for r in c.records)}
    shown = [c for c in curves if c.first.split != c.first.selected_on and id(c.first) in kept]
    by_encoder: dict[tuple[str, str], list[Curve]] = defaultdict(list)
    for curve in shown:
        by_encoder[curve.first.upstream, curve.first.upstream_sha256].append(curve)
    names = short_names(name for name, _sha256 in by_encoder)
    several = Counter(name for name, _sha256 in by_encoder)
    choose = chooser(curves)
    rows = []
    for (name, sha256), mine in by_encoder.items():
        label = names[name] + (f" (weights {sha256[:8]})" if several[name] > 1 else "")
        parameters = mine[0].first.num_parameters
        choices = [choice for choice in map(choose, mine) if choice is not None]
        cells = {
            column: _newest(found)
            for column, task, metric in METRICS
            if (found := _candidates(task, metric, choices, protocols.get(task, {})))
        }
        rows.append(Row(label, "", None if parameters is None else parameters / 1e6, cells))
    return rows


def tables(own: Sequence[Row], published: Sequence[Row], against: Row | None) -> list[Table]:
    """Return results, scores and the particulars of our own results.

    Args:
        own: Our rows.
        published: The rows to show them beside.
        against: The published row that differences are taken to.
    """
    rows = [*published, *own]
    columns = tuple(f"{c.name} {'↓' if c.is_error else '↑'}" for c in COLUMNS)
    results = Table(
        "SUPERB results, % (MTWV x 100); * may not be compared, see below",
        ("model", "", "M", *columns),
        tuple(_results(row) for row in rows),
    )
    ranks = superb_r([row.values for row in rows])
    scores = Table(
        f"Scores: superb_s and superb_r as on the leaderboard, superb_r among these {len(rows)} "
        "models; overall means as in papers",
        ("model", "superb_s", "95 %", "superb_r", "mean of 11 columns", "mean of 10 tasks"),
        tuple(_scores(row, rank) for row, rank in zip(rows, ranks, strict=True)),
    )
    corpora = short_names(cell.corpus for row in own for cell in row.cells.values())
    beside = f"minus {against.name}" if against else "difference"
    particulars = Table(
        "Our own results",
        ("model", "task", "result", "95 %", beside, "n", "corpus", "not comparable, because"),
        tuple(_particulars(row, column, against, corpora) for row in own for column in row.cells),
    )
    return [results, scores, particulars] if own else [results, scores]


def flat_rows(own: Sequence[Row], published: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one flat mapping for each model, for machines: numbers with all their digits."""
    rows = [*published, *own]
    ranks = superb_r([row.values for row in rows])
    flat = []
    for row, rank in zip(rows, ranks, strict=True):
        line: dict[str, Any] = {"model": row.name, "published": row.source or None}
        line["million_parameters"] = row.million_parameters
        for name in (*(column.name for column in COLUMNS), WITH_LM):
            cell = row.cells.get(name)
            line[name] = cell.value if cell else None
            if not row.source:
                line[f"{name} low"] = cell.low if cell else None
                line[f"{name} high"] = cell.high if cell else None
                line[f"{name} not comparable"] = "; ".join(cell.remarks) if cell else None
        score = superb_s(row.values)
        line |= {"superb_s": score, "superb_r": None if score is None else rank}
        line["overall_columns"] = overall_columns(row.values)
        line["overall_tasks"] = overall_tasks(row.values)
        line["missing"] = " ".join(missing_columns(row.values)) or None
        flat.append(line)
    return flat


def write_markdown(own: Sequence[Row], published: Sequence[Row], against: Row | None) -> str:
    """Write the tables in GitHub's Markdown."""
    return "\n".join(table.markdown() for table in tables(own, published, against))


def write_latex(own: Sequence[Row], published: Sequence[Row], against: Row | None) -> str:
    """Write the tables for a document that uses the package booktabs."""
    return "\n".join(table.latex() for table in tables(own, published, against))


def write_csv(own: Sequence[Row], published: Sequence[Row], against: Row | None) -> str:
    """Write one line for each model; differences are left to the reader's program."""
    frame = pd.DataFrame(flat_rows(own, published)).map(csv_cell)
    return frame.to_csv(index=False, lineterminator="\n")


WRITERS = {"markdown": write_markdown, "latex": write_latex, "csv": write_csv}


def _candidates(
    task: str, metric: str, choices: Sequence[Choice], protocol: Mapping[str, Any]
) -> list[_Found]:
    """Return the results of one encoder's runs; five folds of equal setting are one result."""
    about = ((choice, choice.curve.first) for choice in choices)
    chosen = [choice for choice, first in about if (first.task, first.metric) == (task, metric)]
    folds = fold_means(choice for choice in chosen if _fold(choice.curve.first))
    whole = [_mean(mean, protocol) for mean in folds if mean.folds == FOLDS]
    return [_found(choice, protocol) for choice in chosen] + whole


def _newest(found: Sequence[_Found]) -> Cell:
    best = max(found, key=lambda f: (f.cell.comparable, f.cell.setting == "", f.created))
    return best.cell


def _found(choice: Choice, protocol: Mapping[str, Any]) -> _Found:
    first = choice.curve.first
    official = OFFICIAL[first.task]
    fold = _fold(first)
    expected = COUNTS.get(f"er_fold{fold}") if fold else official.num_items
    remarks = [*_remarks(choice, protocol), *_other_count(first.num_items, expected)]
    setting = f"fold {fold}" if fold else ""
    cell = _cell(choice.point, first.num_items, first.corpus, setting, remarks)
    return _Found(cell, first.provenance.created)


def _mean(mean: FoldMean, protocol: Mapping[str, Any]) -> _Found:
    """Return the mean over all folds as one result."""
    firsts = [choice.curve.first for choice in mean.choices]
    found = (_remarks(choice, protocol, whole=True) for choice in mean.choices)
    remarks = list(dict.fromkeys(remark for remarks in found for remark in remarks))
    remarks += _other_count(mean.num_items, OFFICIAL[firsts[0].task].num_items)
    cell = _cell(mean.point, mean.num_items, firsts[0].corpus, "", remarks)
    return _Found(cell, max(first.provenance.created for first in firsts))


def _other_count(found: int, official: int | None) -> list[str]:
    return [] if official in (None, found) else [f"{found:,} test items, not {official:,}"]


def _cell(point: Point, num_items: int, corpus: str, setting: str, remarks: Sequence[str]) -> Cell:
    """Return a score between 0 and 1 in percent."""
    low, high = (None if end is None else 100 * end for end in (point.low, point.high))
    return Cell(100 * point.value, low, high, num_items, corpus, setting, tuple(remarks))


def _remarks(choice: Choice, protocol: Mapping[str, Any], whole: bool = False) -> list[str]:
    """Say why a result cannot stand beside published ones.

    Args:
        choice: The result.
        protocol: The published configuration of its task.
        whole: The folds are all there.
    """
    first = choice.curve.first
    official = OFFICIAL[first.task]
    if first.corpus.partition(":")[0] != official.reader:
        return [f"not on SUPERB's corpus ({official.reader})"]
    remarks = []
    column = first.config.get("split_column", "split")
    if _fold(first) and not whole:
        remarks.append("one fold of five")
    elif not _fold(first) and column != official.split_column:
        remarks.append(f"split column {column}, not {official.split_column}")
    if first.split != "test":
        remarks.append(f"scored on {first.split}, not test")
    if first.num_skipped:
        remarks.append(f"{first.num_skipped:,} items left out")
    if choice.optimistic:
        remarks.append("layer chosen on test")
    return remarks + _deviations(first, protocol)


def _deviations(record: Record, protocol: Mapping[str, Any]) -> list[str]:
    """Name the settings that are not the published ones."""
    config, with_lm = record.config, record.metric == "wer_lm"
    open_ = {*FREE, *BATCH} | (set() if with_lm else DECODING)
    used, official = ({**c, "utterances a step": _batch(c)} for c in (config, protocol))
    remarks = [
        f"{key}={used.get(key)}, not {value}"
        for key, value in official.items()
        if key not in open_ and value != used.get(key)
    ]
    if config.get("finetuned"):
        remarks.append("the encoder was trained too")
    if config.get("limit"):
        remarks.append(f"limit={config['limit']}")
    if record.task == "phoneme_recognition" and not config.get("lexicon"):
        remarks.append("phones of an alignment, not of SUPERB's lexicon")
    if with_lm and not str(config.get("lm")).rpartition("/")[2].startswith(LANGUAGE_MODEL):
        remarks.append(f"language model {config.get('lm')}, not {LANGUAGE_MODEL}")
    return remarks


def _batch(config: Mapping[str, Any]) -> Any:
    size, steps = config.get(BATCH[0], 0), config.get(BATCH[1], 1)
    return size * steps if isinstance(size, int) and isinstance(steps, int) else None


def _fold(record: Record) -> int:
    """Return the number of the fold that a record is about, 0 where SUPERB has none."""
    return fold_of(record) if OFFICIAL[record.task].split_column == FIVE_FOLDS else 0


def _results(row: Row) -> tuple[str, ...]:
    size = "" if row.million_parameters is None else f"{row.million_parameters:.1f}"
    cells = [row.cells.get(column.name) for column in COLUMNS]
    texts = [f"{c.value:.2f}" + "*" * (not c.comparable) if c else "" for c in cells]
    return (row.name, "published" if row.source else "own", size, *texts)


def _scores(row: Row, rank: float) -> tuple[str, ...]:
    values = row.values
    score, columns, ten = superb_s(values), overall_columns(values), overall_tasks(values)
    if score is None:
        lacking = {c.task for c in COLUMNS if c.name not in values}
        tasks = f"{len(TASKS) - len(lacking)} of {len(TASKS)} tasks"
        return (row.name, f"none: {tasks}", "", "", "", "")
    span = superb_s_interval(row.cells)
    return (
        row.name,
        f"{score:.1f}",
        "" if span is None else f"{span[0]:.1f} - {span[1]:.1f}",
        f"{rank:.2f}",
        "" if columns is None else f"{columns:.2f}",
        "" if ten is None else f"{ten:.2f}",
    )


def _particulars(
    row: Row, column: str, against: Row | None, corpora: Mapping[str, str]
) -> tuple[str, ...]:
    cell = row.cells[column]
    other = against.cells.get(column) if against and cell.comparable else None
    return (
        row.name,
        f"{column}, {cell.setting}" if cell.setting else column,
        f"{cell.value:.2f}",
        "" if cell.low is None or cell.high is None else f"{cell.low:.2f} - {cell.high:.2f}",
        "" if other is None else f"{cell.value - other.value:+.2f}",
        "" if cell.num_items is None else f"{cell.num_items:,}",
        corpora[cell.corpus],
        "; ".join(cell.remarks),
    )
