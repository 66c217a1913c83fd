"""Scores in the shape of lm-evaluation-harness' results file, so that its readers read ours.

The file is a function of a store's records alone: however often a study was killed and resumed, it
ends with the same one, but for the date of a number that was measured again.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from auscult.metric import direction_of_record
from auscult.record import Record
from auscult.whole_file import write_text

from .curve import Curve, Point, chosen, metric_order, short_names
from .series import Series
from .store import Store, collecting_later

HIGHER = {"higher": True, "lower": False, "": None}  # as the harness says it
NORMAL = 2 * 1.959964  # standard errors in a 95 % interval
NONE = "N/A"  # where the harness has no standard error

Score = tuple[Curve, Point]


def write_summary(store: Store) -> Path | None:
    """Write a store's summary beside it, whole; return its path, None where it is on a server."""
    if store.file is None:
        return None
    path = store.file.with_suffix(".json")
    with collecting_later():
        write_text(summary_text(store.series()), path)
    return path


def summary_text(series: Iterable[Series]) -> str:
    """Return the summary as the text of a file."""
    return json.dumps(summary(series), indent=1, sort_keys=True, allow_nan=False) + "\n"


def summary(series: Iterable[Series]) -> dict[str, Any]:
    """Return scores by task, corpus and encoder, each at the layer that the selecting split chose.

    Args:
        series: All of a store.
    """
    scores = _scores(list(series))
    names = short_names(curve.first.upstream for curve, _ in scores)
    found = _by_task(scores, names)
    firsts = {task: _main(by_metric.values()) for task, by_metric in found.items()}
    records = [curve.first for curve, _ in scores]
    upstreams = ", ".join(sorted({record.upstream for record in records}))
    return {
        "results": {task: _values(x, firsts[task], names) for task, x in found.items()},
        "group_subtasks": {task: [] for task in found},
        "configs": {task: _config(x, firsts[task]) for task, x in found.items()},
        "versions": {task: first.task_version for task, first in firsts.items()},
        "n-shot": dict.fromkeys(found, 0),
        "higher_is_better": {task: _directions(x.values()) for task, x in found.items()},
        "n-samples": {
            task: {"original": first.num_items + first.num_skipped, "effective": first.num_items}
            for task, first in firsts.items()
        },
        "config": {"model": "auscult", "model_args": upstreams, "limit": None},
        "model_source": "auscult",
        "model_name": upstreams,
        **_newest(records),
    }


def _scores(series: Sequence[Series]) -> list[Score]:
    """Return each curve with the point that stands for it: the chosen one, else that of a model."""
    found = []
    for curve, choice in chosen(series):
        whole = [point for point in curve.points if point.layer is None]
        points = [choice.point] if choice else whole
        found += [(curve, points[0])] if len(points) == 1 else []
    return found


def _by_task(scores: Sequence[Score], names: Mapping[str, str]) -> dict[str, dict[str, Score]]:
    """Return scores by task and then by ``METRIC,FILTER``; a filter is a probe or a head.

    What is the same but for its settings is told apart by a remark on these.
    """
    states = {(_task(curve.first), _state(curve.first)) for curve, _ in scores}
    several = Counter(task for task, _ in states)
    places = []
    for curve, _ in scores:
        task = _task(curve.first)
        task += f"|{_state(curve.first)}" if several[task] > 1 else ""
        places.append((task, curve.first.metric, curve.first.probe))
    taken = Counter(places)
    found: dict[str, dict[str, Score]] = {}
    for place, score in zip(places, scores, strict=True):
        task, metric, probe = place
        first = score[0].first
        remark = score[0].label.removeprefix(names[first.upstream]) if taken[place] > 1 else ""
        found.setdefault(task, {})[f"{_word(metric)},{_word(probe + remark)}"] = score
    return found


def _word(text: str) -> str:
    """Return text without the comma that parts a metric and its filter."""
    return text.replace(",", ";")


def _task(first: Record) -> str:
    """Return what the harness would call a task: what is measured, on what, of which encoder."""
    column = str(first.config.get("split_column", "split"))
    parts = [first.task, first.corpus, first.upstream]
    parts += [first.split] if first.split != "test" else []
    return "|".join([*parts, *([column] if column != "split" else [])])


def _state(first: Record) -> str:
    """Return which state of weights, corpus and task that was."""
    weights, corpus = first.upstream_sha256[:8], first.corpus_sha256[:8]
    return f"weights {weights}, corpus {corpus}, version {first.task_version}"


def _main(scores: Iterable[Score]) -> Record:
    """Return the record that says what a task is: that of its first metric."""
    return min((c.first for c, _ in scores), key=lambda r: (*metric_order(r.metric), r.probe))


def _values(scores: Mapping[str, Score], first: Record, names: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {"alias": f"{first.task}, {names[first.upstream]}"}
    for name, (_, point) in scores.items():
        metric, _, filter_ = name.partition(",")
        values[name] = point.value
        known = point.low is not None and point.high is not None
        low, high = point.interval
        values[f"{metric}_stderr,{filter_}"] = (high - low) / NORMAL if known else NONE
    return values


def _config(scores: Mapping[str, Score], first: Record) -> dict[str, Any]:
    """Return what the harness keeps of a task, and what of ours has no place there."""
    return {
        "task": first.task,
        "dataset_path": first.corpus,
        "test_split": first.split,
        "validation_split": first.selected_on,
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "higher_is_better": higher}
            for metric, higher in _directions(scores.values()).items()
        ],
        "metadata": {
            "version": first.task_version,
            "upstream": first.upstream,
            "upstream_sha256": first.upstream_sha256,
            "corpus_sha256": first.corpus_sha256,
            "layer": {name: point.layer for name, (_, point) in scores.items()},
            "interval": {name: [p.low, p.high] for name, (_, p) in scores.items()},
            "seeds": {name: point.num_seeds for name, (_, point) in scores.items()},
            "unit": {name: curve.first.unit for name, (curve, _) in scores.items()},
        },
    }


def _directions(scores: Iterable[Score]) -> dict[str, bool | None]:
    return {_word(c.first.metric): HIGHER[direction_of_record(c.first)] for c, _ in scores}


def _newest(records: Sequence[Record]) -> dict[str, Any]:
    """Return revision and date (seconds since 1970) of the newest number."""
    newest = max(records, key=lambda r: r.provenance.created, default=None)
    if newest is None:
        return {"git_hash": None, "date": None}
    revision = newest.provenance.code_version.partition("+")[2].partition(".")[0]
    date = None
    with suppress(ValueError, OverflowError):
        date = datetime.fromisoformat(newest.provenance.created).timestamp()
    return {"git_hash": revision or None, "date": date}
