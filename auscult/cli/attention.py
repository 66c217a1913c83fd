"""`auscult attention`: which heads of an encoder attend alike, as maps and as numbers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import (
    MOST,
    CorpusSpec,
    Device,
    Json,
    OutDir,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
    Upstreams,
    choose_device,
    command_line,
    prepare,
    save,
    spread,
)
from auscult.errors import unknown
from auscult.whole_file import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auscult.analysis import DivergenceMaps
    from auscult.dataset import Corpus
    from auscult.record import Artifact, Provenance, Record
    from auscult.upstream import Upstream

TASK, TASK_VERSION = "attention_divergence", 1


@dataclass(frozen=True, slots=True)
class _Run:
    """What all encoders of one command share."""

    corpus: "Corpus"
    split: str
    cuts: Sequence[Any]  # the utterances listened to
    config: Mapping[str, Any]
    provenance: "Provenance"


def attention(
    upstream: Upstreams,
    corpus: CorpusSpec,
    out: OutDir = Path("auscult-out"),
    split_name: Annotated[
        str, typer.Option("--split-name", help="The split to listen to.")
    ] = "test",
    limit: Annotated[
        int | None,
        typer.Option(help="Only this many utterances, evenly over the split.", min=1, max=MOST),
    ] = None,
    base: Annotated[str, typer.Option(help="2 for bits (0 to 1), e for nats.")] = "2",
    split: SplitColumn = None,
    skip_bad: SkipBad = False,
    device: Device = "auto",
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Map how far the attention heads of one or more encoders diverge from each other.

    Jensen-Shannon divergence of every pair of heads, mean over query frames, then utterances.
    OUT receives results.sqlite and, for each encoder, a PNG of the layer x layer map of each head,
    one of all pairs of (layer, head), and an .npz of the arrays; and, below .attention, what a
    killed run goes on from.

    Examples:
      auscult attention -u "random(hubert_base)" -c tsv:data/timit --limit 50 --out heads
      auscult attention -u hf:models/hubert-base -u hf:models/wavlm-base -c demo --base e
    """
    import auscult
    from auscult.analysis import BASES, check_attention
    from auscult.record import provenance

    output = Output(json=json, quiet=quiet)
    where = choose_device(device)
    if base not in BASES:
        raise unknown("base", base, BASES)
    prepare(out, store)
    encoders = [auscult.load(spec) for spec in dict.fromkeys(upstream)]
    for encoder in encoders:
        check_attention(encoder)
    data = auscult.corpus(corpus, split=split, skip_bad=skip_bad)
    cuts = spread(list(data.split(split_name)), limit)
    config = {"base": base, "limit": limit, "split_column": data.split_column}
    run = _Run(data, split_name, cuts, config, provenance(command_line(), where))
    groups: list[list[Record]] = []
    files: list[Path] = []
    for encoder in encoders:
        maps = _measure(encoder.to(where), run, out, skip_bad=skip_bad)
        encoder.cpu()
        found, artifact = _records(encoder, maps, run), _artifact(encoder, maps, run)
        save(found, [artifact], out, store)
        groups.append(found)
        files += _write(artifact, out)
    _show(output, groups, files)
    output.finish(
        [record for found in groups for record in found], files=[str(path) for path in files]
    )


def _measure(encoder: "Upstream", run: _Run, out: Path, *, skip_bad: bool) -> "DivergenceMaps":
    """Listen to all utterances of a run, going on where a killed one was.

    Where an earlier command has finished, the maps say which one that was.
    """
    from auscult.analysis import measure
    from auscult.audio import read_samples

    return measure(
        encoder,
        [(cut.id, partial(read_samples, cut)) for cut in run.cuts],
        base=run.config["base"],
        skip_bad=skip_bad,
        file=_sum_file(encoder, run, out),
        provenance=run.provenance,
    )


def _sum_file(encoder: "Upstream", run: _Run, out: Path) -> Path:
    """Return where sums are kept, a place for all that they depend on."""
    from auscult import kept
    from auscult.origin import made_by

    identity = [TASK, TASK_VERSION, encoder.spec.name, encoder.spec.sha256, run.config["base"]]
    identity += [run.corpus.sha256[run.split], [cut.id for cut in run.cuts], encoder.device.type]
    maker = made_by("auscult.analysis.divergence", "auscult.audio", *encoder.modules())
    file = kept.place(out / ".attention", identity, maker, ".npz")
    kept.say_made_otherwise([file], encoder.spec.name, "sums of divergences")
    return file


def _records(encoder: "Upstream", maps: "DivergenceMaps", run: _Run) -> "list[Record]":
    """Return the means of the maps with intervals over speakers, then utterances."""
    from auscult.dataset import utterance_label
    from auscult.interval import cluster_weights, quantiles
    from auscult.record import Record

    speaker_of = {cut.id: utterance_label(cut, "speaker") for cut in run.cuts}
    speakers = [speaker_of[name] for name in maps.utterances]
    scores: list[tuple[str, int | None, NDArray[Any]]] = [
        ("jsd_same_head", None, maps.utterance_same_head),
        ("jsd_all_pairs", None, maps.utterance_all_pairs),
    ]
    for block, values in enumerate(maps.utterance_next_layer.T, start=1):
        scores.append(("jsd_next_layer", block, values))
    weights = cluster_weights(speakers, maps.num_utterances)
    records = []
    for metric, layer, values in scores:
        low, high = quantiles(weights @ values / weights.sum(-1))
        records.append(
            Record(
                **encoder.spec.record_fields(),
                corpus=run.corpus.spec,
                corpus_sha256=run.corpus.sha256[run.split],
                task=TASK,
                task_version=TASK_VERSION,
                layer=layer,
                probe="jsd",
                metric=metric,
                unit=maps.unit,
                value=float(values.mean()),
                low=low,
                high=high,
                split=run.split,
                num_items=maps.num_utterances,
                num_speakers=len(set(speakers) - {None}) or None,
                num_skipped=len(run.corpus.skipped) + len(maps.skipped),
                seed=0,
                config=run.config,
                provenance=maps.provenance or run.provenance,
            )
        )
    return records


def _artifact(encoder: "Upstream", maps: "DivergenceMaps", run: _Run) -> "Artifact":
    from auscult.record import Artifact

    arrays = ("all_pairs", "block_of", "head_of", "same_head", "mean")
    return Artifact(
        kind=TASK,
        upstream=encoder.spec.name,
        upstream_sha256=encoder.spec.sha256,
        corpus=run.corpus.spec,
        corpus_sha256=run.corpus.sha256[run.split],
        task=TASK,
        arrays={name: getattr(maps, name) for name in arrays},
        meta={
            "unit": maps.unit,
            "num_utterances": maps.num_utterances,
            "split": run.split,
            **run.config,
        },
        provenance=maps.provenance or run.provenance,
    )


def _write(artifact: "Artifact", out: Path) -> list[Path]:
    """Write the figures and the arrays of one encoder; return their paths."""
    import numpy as np

    from auscult.results.figures import all_pairs_map, divergence_maps

    # The key tells apart specs that the file system would not, such as hf:a/b and hf:a-b.
    words = re.sub(r"[^A-Za-z0-9]+", "-", artifact.upstream).strip("-")[-60:]
    stem = f"attention_{words}_{artifact.key[:8]}"
    paths = [out / f"{stem}_{kind}" for kind in ("same_head.png", "all_pairs.png")]
    paths.append(out / f"{stem}.npz")
    divergence_maps(artifact, paths[0])
    all_pairs_map(artifact, paths[1])
    arrays: dict[str, Any] = {**artifact.arrays, "unit": artifact.meta["unit"]}
    with whole_file(paths[2]) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    return paths


def _show(output: Output, groups: "Sequence[Sequence[Record]]", files: Sequence[Path]) -> None:
    """Print one row for each encoder, and where the figures are."""
    rows: list[list[object]] = []
    for same, pairs, *steps in groups:  # the order of _records
        closest = min(steps, key=lambda record: record.value)
        pair = f"{closest.layer} and next: {_with_interval(closest)}"
        scores = [_with_interval(same), _with_interval(pairs), pair]
        rows.append([same.upstream, *scores, same.num_items, same.num_speakers])
    columns = ["upstream", "same head", "all pairs", "closest layers", "utterances", "speakers"]
    unit = groups[0][0].unit
    output.table(f"Attention divergence in {unit}s [95 % interval]", columns, rows)
    for path in files:
        output.print(str(path))


def _with_interval(record: "Record") -> str:
    return f"{record.value:.3g} [{record.low:.3g}, {record.high:.3g}]"
