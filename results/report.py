"""The report: one page that opens anywhere, holds every number and loads nothing.

Text from files is escaped where it enters the page; a content security policy, which names the
page's two scripts by their fingerprints, keeps anything else from running or being fetched.
"""

import base64
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from auscult.errors import UserError
from auscult.record import Artifact, Provenance, Record
from auscult.shown import shown
from auscult.whole_file import write_text

from .artifact import check_artifacts
from .cell import cell, place
from .curve import (
    Choice,
    Curve,
    Run,
    chooser,
    corpus_label,
    gather,
    held_out,
    looks,
    metric_order,
    run_of,
    short_names,
)
from .difference import KIND, Difference, differences
from .figure import sections
from .store import Store, records_of
from .superb.score import BESIDE, TASKS, find_published, published, superb_s
from .superb.table import Protocols, Table, own_rows, tables
from .table import LayerTable, caption, layer_tables

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Run:
    """One command, and what of the page came out of it."""

    key: Run
    number: int
    provenance: Provenance
    upstreams: Sequence[str]
    subjects: Sequence[str]  # task on corpus
    num_records: int
    num_differences: int
    num_artifacts: int  # others

    @property
    def name(self) -> str:
        return f"R{self.number}"

    @property
    def contents(self) -> str:
        counts = (
            (self.num_records, "number"),
            (self.num_differences, "difference"),
            (self.num_artifacts, "array"),
        )
        return ", ".join(f"{n:,} {word}{'s' * (n != 1)}" for n, word in counts if n)


@dataclass(frozen=True, slots=True)
class _Finding:
    """One task on one corpus: each encoder's chosen layer under each probe."""

    subject: str
    first: Record
    sentence: str
    probes: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Choice | None]]]
    chosen_on: Sequence[str]
    optimistic: bool
    differences: Sequence[Difference] = ()

    @property
    def curves(self) -> list[Curve]:
        return [choice.curve for _, found in self.rows for choice in found if choice]


def write_report(
    stores: Store | Sequence[Store], path: Path, protocols: Callable[[], Protocols] | None = None
) -> None:
    """Write all that one or several stores hold as one self-contained HTML page.

    Args:
        stores: What the records and artifacts are read from.
        path: Of the page.
        protocols: Gives the published configuration of each task, asked for where there are
            results on SUPERB's tasks; without it these do not stand beside published ones.

    Raises:
        UserError: The stores hold nothing, or cannot be read.
    """
    several = [stores] if isinstance(stores, Store) else list(stores)
    records = records_of(several)
    artifacts = list({a.key: a for store in several for a in store.artifacts()}.values())
    check_artifacts(artifacts)
    if not records and not artifacts:
        names = " and ".join(str(store) for store in several) or "No store"
        raise UserError(f"{names} holds no results to report; measure something first.")
    write_page(records, artifacts, path, protocols)


def write_page(
    records: Sequence[Record],
    artifacts: Sequence[Artifact],
    path: Path,
    protocols: Callable[[], Protocols] | None = None,
) -> None:
    """Write records and artifacts as one self-contained HTML page.

    Args:
        records: At least one, or an artifact.
        artifacts: Maps, differences, layer weights.
        path: Of the page.
        protocols: See :func:`write_report`.
    """
    superb = _superb(records, protocols) if protocols else []
    write_text(_page(records, artifacts, superb), path)


def _page(records: Sequence[Record], artifacts: Sequence[Artifact], superb: Sequence[Table]) -> str:
    runs = _runs([*records, *artifacts])
    by_key = {run.key: run for run in runs}
    found, curves = layer_tables(held_out(records)), gather(records)
    scripts = [get_plotlyjs(), (HERE / "report.js").read_text(encoding="utf-8")]
    drawn = [artifact for artifact in artifacts if artifact.kind != KIND]
    labelled = list(zip(_artifact_labels(drawn), drawn, strict=True))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_neutral,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        policy=_policy(scripts),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],  # ours, and plotly's own file
        encoders=_encoders(records, artifacts),
        measured=_measured(found),
        findings=_findings(found, curves, differences(artifacts, curves)),
        superb=superb,
        measures=[(t, c) for t in found for c in t.curves if c.first.unit and len(c.points) == 1],
        caption=caption,
        tables=found,
        runs=runs,
        environments=_environments(runs),
        runs_of=lambda found: _runs_of(found, by_key),
        cell=cell,
        place=place,
        corpus_label=corpus_label,
        figures=_neutral(
            {
                "looks": {
                    label: asdict(look)
                    for label, look in looks(c for table in found for c in table.curves).items()
                },
                "panels": _panels(found),
                **sections(labelled),
            }
        ),
    )


def _neutral(value: Any) -> Any:
    """Return what enters the page without control characters and changes of direction."""
    if type(value) is str:  # no Markup, which is ours
        return shown(value, lines=True)
    if isinstance(value, dict):
        return {_neutral(name): _neutral(one) for name, one in value.items()}
    return [_neutral(one) for one in value] if isinstance(value, list) else value


def _superb(records: Sequence[Record], protocols: Callable[[], Protocols]) -> list[Table]:
    """Return own results on SUPERB's tasks above published ones, and why some may not be compared.

    Scores of the whole benchmark are there where a model of ours has one.
    """
    if not any(record.task in TASKS for record in records):
        return []
    own = own_rows(records, protocols())
    if not own:
        return []
    results, scores, particulars = tables(own, published(), find_published(BESIDE))
    rows = tuple(sorted(results.rows, key=lambda row: row[1] == "published"))
    scored = any(superb_s(row.values) is not None for row in own)
    return [replace(results, rows=rows), *([scores] if scored else []), particulars]


def _policy(scripts: Iterable[str]) -> str:
    """Allow the page its own scripts and styles, and no network at all."""
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _runs(found: Iterable[Record | Artifact]) -> list[_Run]:
    """Return the commands behind all numbers, in the order they were given."""
    groups: dict[Run, list[Record | Artifact]] = defaultdict(list)
    for item in found:
        groups[run_of(item)].append(item)
    runs = []
    for number, key in enumerate(sorted(groups), start=1):
        items = groups[key]
        num_records = sum(isinstance(item, Record) for item in items)
        num_differences = sum(isinstance(i, Artifact) and i.kind == KIND for i in items)
        runs.append(
            _Run(
                key,
                number,
                items[0].provenance,
                upstreams=sorted({item.upstream for item in items}),
                subjects=sorted({f"{i.task} on {corpus_label(i.corpus)}" for i in items}),
                num_records=num_records,
                num_differences=num_differences,
                num_artifacts=len(items) - num_records - num_differences,
            )
        )
    return runs


def _runs_of(found: Iterable[Record | Artifact], runs: Mapping[Run, _Run]) -> list[_Run]:
    return [runs[key] for key in sorted({run_of(item) for item in found})]


def _environments(runs: Sequence[_Run]) -> list[tuple[Provenance, list[_Run]]]:
    """Group runs by code, libraries and device."""
    groups: dict[str, list[_Run]] = defaultdict(list)
    for run in runs:
        p = run.provenance
        groups[f"{p.code_version} {p.device} {sorted(p.libraries.items())}"].append(run)
    return [(group[0].provenance, group) for group in groups.values()]


def _encoders(
    records: Sequence[Record], artifacts: Sequence[Artifact]
) -> list[tuple[str, str, int | None, str, str]]:
    """Return name, fingerprint, number of parameters, subnet and convention of every encoder."""
    sizes: dict[tuple[str, str], int | None] = {
        (a.upstream, a.upstream_sha256): None for a in artifacts
    }
    conventions: dict[tuple[str, str], set[str]] = defaultdict(set)
    subnets: dict[tuple[str, str], str] = defaultdict(str)
    for record in records:
        key = (record.upstream, record.upstream_sha256)
        subnets[key] = subnets[key] or record.subnet
        sizes[key] = sizes.get(key) or record.num_parameters
        conventions[key] |= {record.convention} - {""}
    return [
        (*key, sizes[key], subnets[key], " or ".join(sorted(conventions[key])))
        for key in sorted(sizes)
    ]


def _measured(tables: Sequence[LayerTable]) -> list[Record]:
    """Return one record for each corpus split and task."""
    firsts = [table.curves[0].first for table in tables]
    distinct = {(r.corpus, r.corpus_sha256, r.task, r.task_version, r.split): r for r in firsts}
    return list(distinct.values())


def _findings(
    tables: Sequence[LayerTable], curves: Sequence[Curve], compared: Sequence[Difference]
) -> list[_Finding]:
    """Summarise each task by its main metric, one finding for each corpus and task."""
    choose = chooser(curves)
    subjects: dict[str, dict[str, list[Choice]]] = defaultdict(lambda: defaultdict(list))
    for table in tables:
        for curve in table.curves:
            if choice := choose(curve):
                subjects[table.subject][curve.first.metric].append(choice)
    return [
        _finding(
            subject,
            by_metric[min(by_metric, key=metric_order)],
            [difference for difference in compared if difference.subject == subject],
        )
        for subject, by_metric in subjects.items()
    ]


def _finding(subject: str, group: Sequence[Choice], compared: list[Difference]) -> _Finding:
    first = group[0].curve.first
    probes = sorted({choice.curve.first.probe for choice in group})
    cells: dict[str, dict[str, Choice]] = defaultdict(dict)
    for choice in group:
        cells[choice.curve.label][choice.curve.first.probe] = choice
    rows = [(label, [found.get(probe) for probe in probes]) for label, found in cells.items()]
    chosen_on = sorted({choice.chosen_on for choice in group} - {""})
    optimistic = any(choice.optimistic for choice in group)
    sentence = _sentence(group, compared)
    return _Finding(subject, first, sentence, probes, rows, chosen_on, optimistic, compared)


def _sentence(group: Sequence[Choice], compared: Sequence[Difference]) -> str:
    """Say in words which encoder reads best, and whether the next one can be told from it."""
    sign = -1 if group[0].lower_is_better else 1
    ranked = sorted(group, key=lambda choice: -sign * choice.point.value)
    best, first = ranked[0], ranked[0].curve.first
    text = f"{best.curve.label} scores best: {cell(best.point, first.unit)} with {first.probe}"
    text += f" at layer {place(best.point)}" if best.chosen_on else ""
    text += f" (picked on {best.chosen_on})" if best.optimistic else ""
    others = [c for c in ranked if c.curve.label != best.curve.label]
    if others:
        text += f"; next is {others[0].curve.label} with {cell(others[0].point, first.unit)}"
        text += _apart(best, others[0], compared)
    if first.majority is not None:
        text += f". Always answering the commonest class scores {first.majority:.3f}"
    return text + "."


def _apart(one: Choice, other: Choice, compared: Sequence[Difference]) -> str:
    """Say how far apart two are: by their paired difference, else if their intervals overlap."""
    first, second = one.curve.first, other.curve.first
    pair = (one.curve.label, other.curve.label, first.probe, first.metric)
    for difference in compared:
        meta = difference.artifact.meta
        if (difference.label, difference.over, meta["probe"], meta["metric"]) == pair:
            under = "" if first.probe == second.probe else f" with {first.probe}"
            return f"; their difference{under} is {difference.text} on the same resamples"
    (a, b), (c, d) = one.point.interval, other.point.interval
    return ", the intervals overlap" if a <= d and c <= b else ""


def _panels(tables: Sequence[LayerTable]) -> list[dict[str, Any]]:
    """Return what the interactive layer curves are drawn from."""
    return [
        {
            "subject": table.subject,
            "metric": first.metric + (f" ({first.unit})" if first.unit else ""),
            "probe": first.probe,
            "majority": first.majority,
            "curves": [_curve(c) for c in table.curves if c.layers],
        }
        for table in tables
        if (first := table.curves[0].first) and any(curve.layers for curve in table.curves)
    ]


def _curve(curve: Curve) -> dict[str, Any]:
    records = {record.layer: record for record in curve.records}
    return {
        "label": curve.label,
        "flat": curve.is_flat,
        "layers": curve.layer_numbers,
        "values": [p.value for p in curve.layers],
        "low": [p.interval[0] for p in curve.layers],
        "high": [p.interval[1] for p in curve.layers],
        "notes": [
            f"{cell(p, curve.first.unit)}{f' {curve.first.unit}' if curve.first.unit else ''}"
            f"{f', sd {p.spread:.3f} over {p.num_seeds} seeds' if p.spread is not None else ''}"
            f", n = {records[p.layer].num_items:,}"
            for p in curve.layers
        ],
    }


def _artifact_labels(artifacts: Sequence[Artifact]) -> list[str]:
    """Name artifacts by encoder, corpus and size, for a reader to choose from."""
    upstreams = short_names(artifact.upstream for artifact in artifacts)
    corpora = short_names(artifact.corpus for artifact in artifacts)
    labels = []
    for artifact in artifacts:
        parts = [upstreams[artifact.upstream], corpus_label(corpora[artifact.corpus])]
        if "num_utterances" in artifact.meta:
            parts.append(f"{artifact.meta['num_utterances']:,} utterances")
        labels.append(" · ".join(parts))
    return labels
