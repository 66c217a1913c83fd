"""Records gathered into curves over layers: what tables, figures and the report all show."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from auscult.record import Record

LOWER_IS_BETTER = frozenset({"per", "wer", "cer", "eer", "min_dcf", "der", "loss"})
SYNTHETIC = "demo"  # the corpus reader whose speech comes from a synthesiser


@dataclass(frozen=True, slots=True)
class Point:
    """One layer's score: the mean over seeds, with the mean of the seeds' interval ends."""

    layer: int | str | None
    value: float
    low: float | None
    high: float | None
    spread: float | None  # standard deviation over seeds, None for one seed
    num_seeds: int

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval; the value itself where there is none."""
        return (
            self.value if self.low is None else self.low,
            self.value if self.high is None else self.high,
        )


@dataclass(frozen=True, slots=True)
class Curve:
    """One upstream under one probe and metric: a point for each layer, in order."""

    label: str  # the upstream, told apart from others of its name
    first: Record  # what is common to all points is read off this one
    records: tuple[Record, ...]
    points: tuple[Point, ...]

    @property
    def layers(self) -> tuple[Point, ...]:
        """The points of single hidden states."""
        return tuple(p for p in self.points if isinstance(p.layer, int))

    @property
    def is_flat(self) -> bool:
        """Whether the upstream has one representation only, as fbank has."""
        return [p.layer for p in self.layers] == [0]

    @property
    def best(self) -> Point | None:
        """The best point on the split reported on; None where the metric knows no better."""
        return best_point(self.points, self.first)


def best_point(points: Sequence[Point], record: Record) -> Point | None:
    """Return the best point, the first of equals; None for measures without a direction."""
    if record.unit or not points:
        return None  # bits, seconds, parameters describe, they do not score
    sign = -1 if record.metric in LOWER_IS_BETTER else 1
    return max(points, key=lambda p: sign * p.value)


def gather(records: Iterable[Record]) -> list[Curve]:
    """Gather records into curves, averaging over seeds and over nothing else.

    Records that differ in configuration only are one curve while they complete each other, such
    as layers measured by two commands, and two curves where both have the same layer and seed.
    """
    groups: dict[tuple[object, ...], list[Record]] = defaultdict(list)
    for record in records:
        groups[_identity(record)].append(record)
    parts: list[list[Record]] = []
    for group in groups.values():
        if len({(r.layer, r.seed) for r in group}) == len(group):
            parts.append(group)
            continue
        by_config: dict[str, list[Record]] = defaultdict(list)
        for record in group:
            by_config[record.config_sha256].append(record)
        parts += by_config.values()
    names = _labels(parts)
    return [_curve(name, part) for name, part in zip(names, parts, strict=True)]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each address without the folders of its path, where that leaves it unique."""
    distinct = sorted(set(names))
    short = {name: re.sub(r"[^\s():@,]*/(?=[^/])", "", name) for name in distinct}
    taken = list(short.values())
    return {name: s if taken.count(s) == 1 else name for name, s in short.items()}


def corpus_label(corpus: str) -> str:
    """Return a corpus' name, marked where its speech is synthetic: no number of it is about people."""
    return f"{corpus} (synthetic speech)" if corpus.split(":")[0] == SYNTHETIC else corpus


def metric_order(metric: str) -> tuple[bool, str]:
    """Sort key that puts accuracy before every other metric."""
    return (metric != "accuracy", metric)


def _identity(record: Record) -> tuple[object, ...]:
    return (
        *(record.corpus, record.corpus_sha256, record.task, record.task_version, record.split),
        *(record.selected_on, record.metric, record.unit, record.probe, record.head),
        *(record.upstream, record.upstream_sha256),
    )


def _labels(parts: Sequence[Sequence[Record]]) -> list[str]:
    """Name each part by its upstream, and by a fingerprint where two would be called the same."""
    weights: dict[str, set[str]] = defaultdict(set)
    configs: dict[tuple[object, ...], int] = defaultdict(int)
    for part in parts:
        weights[part[0].upstream].add(part[0].upstream_sha256)
        configs[_identity(part[0])] += 1
    labels = []
    for part in parts:
        first, label = part[0], part[0].upstream
        if len(weights[first.upstream]) > 1:
            label += f" (weights {first.upstream_sha256[:8]})"
        if configs[_identity(first)] > 1:
            label += f" (config {first.config_sha256[:8]})"
        labels.append(label)
    return labels


def _curve(label: str, records: Sequence[Record]) -> Curve:
    by_layer: dict[int | str | None, list[Record]] = defaultdict(list)
    for record in records:
        by_layer[record.layer].append(record)
    order = sorted(by_layer, key=lambda x: (not isinstance(x, int), x if isinstance(x, int) else 0))
    points = tuple(_point(layer, by_layer[layer]) for layer in order)
    return Curve(label, records[0], tuple(records), points)


def _point(layer: int | str | None, seeds: Sequence[Record]) -> Point:
    lows = [r.low for r in seeds if r.low is not None]
    highs = [r.high for r in seeds if r.high is not None]
    values = [r.value for r in seeds]
    return Point(
        layer=layer,
        value=fmean(values),
        low=fmean(lows) if lows else None,
        high=fmean(highs) if highs else None,
        spread=stdev(values) if len(values) > 1 else None,
        num_seeds=len(values),
    )
