"""`auscult probe`: small readers of every layer of every encoder, with their company."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.option import Baselines, ExecutorName, Limit, PlanOnly, Threads, finish, show_plan
from auscult.cli.output import (
    MOST,
    AllowSharedSpeakers,
    Budget,
    ComputePrecision,
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
)

if TYPE_CHECKING:
    from auscult.studies import Findings

MARGIN = (  # what --json says of a difference
    *("upstream", "over", "task", "probe", "layer", "over_layer", "value", "low", "high"),
)


def probe(
    upstream: Upstreams,
    corpus: CorpusSpec,
    task: Annotated[
        list[str],
        typer.Option(
            "-t",
            "--task",
            help="phone, phone39, phone61, frame_speaker, speaker, sex, keyword, emotion, intent, "
            "slot:NAME, label:COLUMN or alignment:NAME. Repeatable.",
        ),
    ],
    out: OutDir = Path("auscult-out"),
    probe: Annotated[
        list[str] | None, typer.Option("--probe", help="linear, mlp1, mlp2; all by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds of each probe.", min=1, max=1000)] = 1,
    layers: Annotated[str, typer.Option(help="all, or such as 0,3,6-12.")] = "all",
    learning_rates: Annotated[
        str, typer.Option(help="One, or several of which dev chooses: 1e-2,1e-3,1e-4.")
    ] = "1e-3",
    max_epochs: Annotated[
        int | None, typer.Option(help="Limit; 30 for frames, 60 for utterances.", min=1, max=MOST)
    ] = None,
    pooling: Annotated[
        str, typer.Option(help="Utterance tasks: mean, or statistics (mean and deviation).")
    ] = "mean",
    baselines: Baselines = True,
    budget: Budget = "8GB",
    split: SplitColumn = None,
    limit: Limit = None,
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    precision: ComputePrecision = "float32",
    device: Device = "auto",
    executor: ExecutorName = "serial",
    threads: Threads = None,
    plan: PlanOnly = False,
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Probe every layer of one or more encoders.

    Each utterance is encoded once; all layers, probe depths, seeds and tasks read those features.
    Scores are on test; dev chooses the epoch and the learning rate. By how much an encoder is read
    better than its random twin and log-mel is said with its own interval. OUT receives
    results.sqlite, a layer-curve PNG and, below .probe, what a killed run goes on from.

    Examples:
      auscult probe -u fbank -u "random(hubert_base)" -c tsv:data/timit -t phone39 --out phones
      auscult probe -u hf:models/wavlm-base -c demo --split sid_split -t speaker --probe linear
    """
    import auscult.studies as studies
    from auscult.config import parse_rates

    output = Output(json=json, quiet=quiet)
    given: dict[str, Any] = {"layers": layers, "seeds": seeds}
    given |= {"learning_rates": parse_rates(learning_rates), "max_epochs": max_epochs}
    given |= {"pooling": pooling, "baselines": baselines, "split": split, "limit": limit}
    given |= {"budget": budget, "precision": precision, "device": device, "executor": executor}
    given |= {"threads": threads, "skip_bad": skip_bad}
    given |= {"allow_shared_speakers": allow_shared_speakers, "out": out, "store": store}
    if probe:
        given["probes"] = probe
    if plan:
        return show_plan(output, studies.plan_probe(upstream, corpus, task, **given))
    found = studies.probe(upstream, corpus, task, **given)
    _show(output, found, out)


def _show(output: Output, found: "Findings", out: Path) -> None:
    """Print the best layer of each encoder, task and probe, and draw the curves."""
    from auscult.results import difference
    from auscult.results.curve import gather
    from auscult.results.table import BEST_COLUMNS, best_rows

    figure = found.plot(out / "layer_curves.png")
    records, compared = found.records, found.differences
    output.table("Best layer by dev accuracy, scored on test", BEST_COLUMNS, best_rows(records))
    if compared:
        rows = difference.difference_rows(difference.differences(compared, gather(records)))
        output.table(difference.TITLE, difference.COLUMNS, rows)
    output.print(f"Layer curves: {figure}")
    flat = [difference.flat_difference(artifact) for artifact in compared]
    finish(output, found, margins=[{name: row[name] for name in MARGIN} for row in flat])
