"""`auscult attention`: which heads of an encoder attend alike, as maps and as numbers."""

from pathlib import Path
from typing import Annotated, Any

import typer

from auscult.cli.option import ExecutorName, PlanOnly, Threads, finish, show_plan
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
)


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
    executor: ExecutorName = "serial",
    threads: Threads = None,
    plan: PlanOnly = False,
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
    import auscult.studies as studies
    from auscult.studies.divergence import COLUMNS, summary

    output = Output(json=json, quiet=quiet)
    given: dict[str, Any] = {
        "split_name": split_name,
        "limit": limit,
        "base": base,
        "split": split,
        "device": device,
        "executor": executor,
        "threads": threads,
        "skip_bad": skip_bad,
        "out": out,
        "store": store,
    }
    if plan:
        return show_plan(output, studies.plan_attention(upstream, corpus, **given))
    found = studies.attention(upstream, corpus, **given)
    unit = found.records[0].unit
    output.table(
        f"Attention divergence in {unit}s [95 % interval]", COLUMNS, summary(found.records)
    )
    for path in found.files:
        output.print(str(path))
    finish(output, found, files=[str(path) for path in found.files])
