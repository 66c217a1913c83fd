"""Records gathered into curves over layers: what tables, figures and the report all show."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from statistics import fmean

from auscult.metric import direction_of_record
from auscult.record import Artifact, Record, fingerprint

from .series import Scored, Series

CHOSEN = "learning_rate"  # the setting that dev chooses for each layer
SYNTHETIC = "demo"  # the corpus reader whose speech comes from a synthesiser
_PATH = r"[^\s():@,]"
_FOLDERS = re.compile(rf"(?<!{_PATH}){_PATH}*/(?=[^/])")  # looked for once a path: they may be long


Subject = tuple[str, str, str, int, str]  # corpus, task, split, task version, fingerprint

Run = tuple[str, str, str]  # when, command, device

Settings = Mapping[str, set[str]]  # the values of each setting in one run, as text


@dataclass(frozen=True, slots=True)
class Point:
    """One layer's score: the mean over seeds, with the mean of the seeds' interval ends."""

    layer: int | str | None
    head: int | None
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
    """One upstream under one probe and metric: a point for each layer (and head), in order."""

    label: str  # short name of the upstream, told apart from others of that name
    first: Record  # what is common to all points is read off this one
    records: tuple[Record, ...]  # of each series the first
    points: tuple[Point, ...]
    setting: str  # fingerprint of the configuration, but for what is chosen for each layer

    @property
    def subject(self) -> Subject:
        """What the curve is a score on."""
        r = self.first
        return (r.corpus, r.task, r.split, r.task_version, r.corpus_sha256)

    @property
    def layers(self) -> tuple[Point, ...]:
        """The points of single hidden states."""
        return tuple(p for p in self.points if isinstance(p.layer, int) and p.head is None)

    @property
    def layer_numbers(self) -> list[int]:
        """The layers of :attr:`layers`."""
        return [p.layer for p in self.layers if isinstance(p.layer, int)]

    @property
    def is_flat(self) -> bool:
        """Whether the upstream has one representation only, as fbank has."""
        return self.layer_numbers == [0]


@dataclass(frozen=True, slots=True)
class Choice:
    """The point that a curve is summarised by, and the split that it was chosen on."""

    curve: Curve
    point: Point
    chosen_on: str  # "" where there was nothing to choose

    @property
    def optimistic(self) -> bool:
        """Whether the point was chosen on the split that its score is reported on."""
        return self.chosen_on == self.curve.first.split

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value of the metric is the better one."""
        return direction_of_record(self.curve.first) == "lower"


def chooser(curves: Iterable[Curve]) -> "Callable[[Curve], Choice | None]":
    """Return what chooses a curve's point on its selection split, or else on its own scores.

    Args:
        curves: All curves, among which the one on the selection split is looked for.

    Returns:
        A function of the curve to summarise; it returns None where the metric knows no better.
    """
    on_split: dict[tuple[object, ...], list[Curve]] = defaultdict(list)
    for curve in curves:
        on_split[curve.first.split, curve.setting, *_measured(curve.first)].append(curve)

    def choose(curve: Curve) -> Choice | None:
        first = curve.first
        direction = direction_of_record(first)
        if not direction:
            return None  # divergences and sizes describe, they do not score
        if len(curve.points) == 1:
            return Choice(curve, curve.points[0], "")
        sign = -1 if direction == "lower" else 1
        points = {(p.layer, p.head): p for p in curve.points}
        selecting = on_split.get((first.selected_on, curve.setting, *_measured(first)), ())
        for other in selecting if first.selected_on != first.split else ():
            if _share_runs(other, curve):
                for best in sorted(other.points, key=lambda p: -sign * p.value):
                    if (best.layer, best.head) in points:
                        return Choice(curve, points[best.layer, best.head], first.selected_on)
        return Choice(curve, max(curve.points, key=lambda p: sign * p.value), first.split)

    return choose


def chosen(series: Sequence[Series]) -> list[tuple[Curve, Choice | None]]:
    """Return a store's curves on the splits reported on, each with the point that was chosen."""
    reported = {id(record) for record in held_out(one.first for one in series)}
    shown = gather_series(one for one in series if id(one.first) in reported)
    selecting = (one for one in series if one.first.split == one.first.selected_on)
    choose = chooser(gather_series(selecting))
    return [(curve, choose(curve)) for curve in shown]


def run_of(item: Record | Artifact) -> Run:
    """Identify the run that a number or a figure came from."""
    return (item.provenance.created, item.provenance.command, item.provenance.device)


def held_out(records: Iterable[Record]) -> list[Record]:
    """Leave out scores on the split that chose them, where there are others of the same."""
    every = list(records)
    reported = {_measured(record) for record in every if record.split != record.selected_on}
    return [r for r in every if r.split != r.selected_on or _measured(r) not in reported]


def gather(records: Iterable[Record]) -> list[Curve]:
    """Gather records into curves, averaging over seeds and over nothing else.

    Layers and seeds measured by several commands complete one curve where all were configured
    alike, but for the learning rate, which is chosen for each layer. Other configurations are
    other curves, whose labels say what differs.
    """
    return gather_series(Series(record, (record,)) for record in records)


def gather_series(series: Iterable[Series]) -> list[Curve]:
    """Gather series into curves; see :func:`gather`."""
    groups: dict[tuple[object, ...], dict[str, list[Series]]] = defaultdict(dict)
    settings: dict[int, str] = {}  # by identity: records of a store share their configurations
    for one in series:
        first = one.first
        setting = settings.get(id(first.config)) or settings.setdefault(
            id(first.config), _setting(first)
        )
        group = groups[(*_measured(first), first.split, first.corpus_sha256)]
        group.setdefault(setting, []).append(one)
    curves = []
    for group in groups.values():
        parts = [(part, key) for key, alike in group.items() for part in _told_apart(alike)]
        remarks = _remarks([part for part, _key in parts])
        curves += [_curve(*part, remark) for part, remark in zip(parts, remarks, strict=True)]
    return _labelled(curves)


def label_order(curves: Iterable[Curve]) -> list[str]:
    """Return the labels in the order of their colours, the same in every figure of them."""
    return sorted({curve.label for curve in curves if curve.layers})


@dataclass(frozen=True, slots=True)
class Look:
    """How a label is drawn, the same in every figure."""

    place: int  # among the colours
    twin: bool  # a random twin, in the colour of its encoder


def looks(curves: Iterable[Curve]) -> dict[str, Look]:
    """Return the look of each label; twins without their encoder have a colour of their own."""
    labels = label_order(curves)
    encoders = {label: re.sub(r"^random\((.*?)(, seed=\d+)?\)$", r"\1", label) for label in labels}
    known = set(labels)
    apart = [label for label in labels if encoders[label] == label or encoders[label] not in known]
    places = {label: place for place, label in enumerate(apart)}
    return {
        label: Look(places[label], False)
        if label in places
        else Look(places[encoders[label]], True)
        for label in labels
    }


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return each address without the folders of its path, where that leaves it unique."""
    distinct = sorted(set(names))
    short = {name: _FOLDERS.sub("", name) for name in distinct}
    taken = Counter(short.values())
    return {name: s if taken[s] == 1 else name for name, s in short.items()}


def subject_names(curves: Iterable[Curve], joint: str = " on ") -> dict[Subject, str]:
    """Name what curves are scores on: ``phone39 on tsv:timit, test``.

    Split columns such as folds are told apart where several occur; failing these, versions of a
    task and states of a corpus.
    """
    columns: dict[Subject, set[str]] = defaultdict(set)
    for curve in curves:
        columns[curve.subject].add(str(curve.first.config.get("split_column", "split")))
    subjects = sorted(columns)
    corpora = short_names(subject[0] for subject in subjects)
    names = {s: f"{s[1]}{joint}{corpus_label(corpora[s[0]])}, {s[2]}" for s in subjects}
    told = {s: f"{names[s]} of {' and '.join(sorted(columns[s]))}" for s in subjects}
    taken = Counter([*names.values(), *told.values()])
    unique = ([name for name in (names[s], told[s]) if taken[name] == 1] for s in subjects)
    return {
        s: name[0] if name else f"{names[s]} (version {s[3]}, {s[4][:8]})"
        for s, name in zip(subjects, unique, strict=True)
    }


def corpus_label(corpus: str) -> str:
    """Return a corpus' name, marked where its speech is synthetic."""
    return f"{corpus} (synthetic speech)" if corpus.split(":")[0] == SYNTHETIC else corpus


def metric_order(metric: str) -> tuple[bool, str]:
    """Sort key that puts accuracy before every other metric."""
    return (metric != "accuracy", metric)


def own_settings(mine: Settings, settings: Sequence[Settings]) -> str:
    """Say which settings of one run others of ``settings`` do not share: ``pooling=mean``."""
    differ = {
        name: min(values)[:8] if name.endswith("sha256") else min(values)
        for name, values in sorted(mine.items())
        if len(values) == 1 and any(other.get(name) != values for other in settings)
    }
    if len(differ) > 1:
        differ.pop(CHOSEN, None)  # it follows from the others
    return ", ".join(f"{name}={value}" for name, value in differ.items())


def _share_runs(one: Curve, other: Curve) -> bool:
    return not {run_of(r) for r in one.records}.isdisjoint(run_of(r) for r in other.records)


def _measured(record: Record) -> tuple[object, ...]:
    """What a curve is about, whichever split it is scored on."""
    return (
        *(record.corpus, record.task, record.task_version, record.selected_on),
        *(record.metric, record.unit, record.probe, record.upstream, record.upstream_sha256),
        record.convention,
    )


def _setting(record: Record) -> str:
    """How a curve was measured: all of the configuration but what is chosen for each layer."""
    return fingerprint({k: v for k, v in record.config.items() if k != CHOSEN})


def _told_apart(alike: Sequence[Series]) -> list[Sequence[Series]]:
    """Part series of one setting by command where two measured the same layer and seed.

    They chose other learning rates, else one had replaced the other.
    """
    places = [(score.layer, score.head, score.seed) for one in alike for score in one.scores]
    if len(set(places)) == len(places):
        return [alike]
    by_run: dict[Run, list[Series]] = defaultdict(list)
    for one in alike:
        by_run[run_of(one.first)].append(one)
    return list(by_run.values())


def _remarks(parts: Sequence[Sequence[Series]]) -> list[str]:
    """Say what tells several curves of one measurement apart; when it was made if need be."""
    if len(parts) == 1:
        return [""]
    settings = [_values(part) for part in parts]
    created = [part[0].first.provenance.created for part in parts]
    remarks = [
        own_settings(mine, settings) or made for mine, made in zip(settings, created, strict=True)
    ]
    taken = Counter(remarks)
    return [
        remark if taken[remark] == 1 else f"{remark}, {made}"
        for remark, made in zip(remarks, created, strict=True)
    ]


def _values(part: Sequence[Series]) -> Settings:
    """Return the values of each setting."""
    names = part[0].first.config
    return {name: {str(one.first.config.get(name)) for one in part} for name in names}


def _curve(part: Sequence[Series], setting: str, remark: str) -> Curve:
    places: dict[tuple[int | str | None, int | None], list[Scored]] = defaultdict(list)
    for one in part:
        for score in one.scores:
            places[score.layer, score.head].append(score)
    points = tuple(_point(places[place]) for place in sorted(places, key=_place_order))
    firsts = tuple(one.first for one in part)
    return Curve(f" ({remark})" if remark else "", firsts[0], firsts, points, setting)


def _labelled(curves: Sequence[Curve]) -> list[Curve]:
    """Put the upstream's name before each label; weights or layers where a name has several."""
    names = short_names(curve.first.upstream for curve in curves)
    weights: dict[str, set[str]] = defaultdict(set)
    conventions: dict[str, set[str]] = defaultdict(set)
    for curve in curves:
        weights[curve.first.upstream].add(curve.first.upstream_sha256)
        conventions[curve.first.upstream].add(curve.first.convention)
    labelled = []
    for curve in curves:
        first = curve.first
        label = names[first.upstream]
        if len(weights[first.upstream]) > 1:
            label += f" (weights {first.upstream_sha256[:8]})"
        if len(conventions[first.upstream]) > 1:
            label += f" (layers: {first.convention or 'unknown'})"
        labelled.append(replace(curve, label=label + curve.label))
    return labelled


def _place_order(place: tuple[int | str | None, int | None]) -> tuple[int, int, str, int]:
    """Sort key: layers by number, then the learned sum, then the whole model."""
    layer, head = place
    rank = 0 if isinstance(layer, int) else 1 if layer else 2
    number = layer if isinstance(layer, int) else 0
    return (rank, number, str(layer), -1 if head is None else head)


def _point(seeds: Sequence[Scored]) -> Point:
    if len(seeds) == 1:
        (one,) = seeds
        return Point(one.layer, one.head, one.value, one.low, one.high, None, 1)
    lows = [r.low for r in seeds if r.low is not None]
    highs = [r.high for r in seeds if r.high is not None]
    values = [r.value for r in seeds]
    mean = fmean(values)
    return Point(
        layer=seeds[0].layer,
        head=seeds[0].head,
        value=mean,
        low=fmean(lows) if lows else None,
        high=fmean(highs) if highs else None,
        # as statistics.stdev, a hundred times as fast
        spread=sqrt(fsum((value - mean) ** 2 for value in values) / (len(values) - 1)),
        num_seeds=len(values),
    )
