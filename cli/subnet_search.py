"""`auscult subnet search`: which subnets of a supernet are worth what they cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from auscult.cli.option import ExecutorName, Limit, Threads
from auscult.cli.output import (
    MOST,
    MOST_SEED,
    AllowSharedSpeakers,
    CorpusSpec,
    Device,
    Json,
    Output,
    Quiet,
    SkipBad,
    SplitColumn,
    StoreUrl,
)

if TYPE_CHECKING:
    from auscult.studies.search import Found

Strategy = Literal["evolution", "random"]


def search(
    upstream: Annotated[
        str,
        typer.Argument(
            metavar="SUPERNET",
            help="lighthubert:FILE or FOLDER, tiny_lighthubert, or random(lighthubert_small).",
            show_default=False,
        ),
    ],
    corpus: CorpusSpec,
    objective: Annotated[
        str, typer.Option(help="probe:TASK, such as probe:phone39; or distill.", show_default=False)
    ],
    budget: Annotated[
        str, typer.Option(help="Upper limits, such as params<=40M,macs<=800G,rtf<=0.05.")
    ] = "",
    cost: Annotated[
        str, typer.Option(help="Cost of the front: params, macs or rtf. The budget's first.")
    ] = "",
    strategy: Annotated[Strategy, typer.Option(help="How subnets are made.")] = "evolution",
    evaluations: Annotated[
        int,
        typer.Option("-n", "--evaluations", help="How many subnets to look at.", min=1, max=10**6),
    ] = 100,
    seed: Annotated[int, typer.Option(help="Seed of the search.", min=0, max=MOST_SEED)] = 0,
    layer: Annotated[
        int | None, typer.Option(help="Hidden state that is probed; the last of each.", min=0)
    ] = None,
    limit: Limit = None,
    teacher: Annotated[
        str, typer.Option(help="For distill: the teacher, where the supernet does not name it.")
    ] = "",
    top_layers: Annotated[
        int | None,
        typer.Option(help="For distill: teacher blocks to average.", min=1, max=MOST),
    ] = None,
    split: SplitColumn = None,
    allow_shared_speakers: AllowSharedSpeakers = False,
    skip_bad: SkipBad = False,
    out: Annotated[Path, typer.Option("--out", help="Folder for the front.")] = Path("subnets"),
    device: Device = "auto",
    executor: ExecutorName = "serial",
    threads: Threads = None,
    store: StoreUrl = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search the subnets of a supernet for those that are worth their cost.

    Subnets are scored on dev with the supernet's own weights, none is trained. Those of the front,
    which no other one beats at its cost, are then scored on test. Every subnet looked at keeps the
    budget; real-time factors are sums from a table measured on this machine. Run the same command
    again to go on after a kill: the outcome is the same. OUT receives front.json, front.png,
    best.json (a subnet file), results.sqlite, scores.jsonl and latency.json.

    Examples:
      auscult subnet search "random(lighthubert_small)" -c demo --objective probe:phone39 \
--budget "params<=20M" -n 20 --limit 10 --out found
      auscult subnet search lighthubert:M -c tsv:data/timit --objective distill --out found
      auscult subnet export lighthubert:M@found/best.json --out best
    """
    import auscult.studies as studies

    output = Output(json=json, quiet=quiet)
    given: dict[str, Any] = {"budget": budget, "cost": cost, "strategy": strategy}
    given |= {"evaluations": evaluations, "seed": seed, "layer": layer, "limit": limit}
    given |= {"teacher": teacher, "top_layers": top_layers, "split": split, "device": device}
    given |= {"executor": executor, "threads": threads, "skip_bad": skip_bad}
    given |= {"allow_shared_speakers": allow_shared_speakers, "out": out, "store": store}
    found = studies.search(upstream, corpus, objective, **given)
    _show(output, found)
    output.finish(found.records, **found.result)


def _show(output: Output, found: "Found") -> None:
    output.table(
        f"Real-time factors on {found.latency.place.processor}: the table against whole subnets",
        ("table", "measured", "error", "subnet"),
        [
            (f"{one.predicted:.5f}", f"{one.measured:.5f}", f"{one.error:+.1%}", one.subnet)
            for one in found.latency.checked
        ],
    )
    front = found.result["front"]
    output.table(
        f"Front: {found.result['score']}, cheapest first, with 95 % intervals",
        ("", "parameters", "MACs (G)", "RTF", "dev", "test"),
        [
            (
                number,
                f"{entry['params']:,}",
                f"{entry['macs'] / 1e9:,.1f}",
                f"{entry['rtf']:.4f}",
                _interval(entry["score"], entry["low"], entry["high"]),
                _interval(**entry["test"]),
            )
            for number, entry in enumerate(front, start=1)
        ],
    )
    for number, entry in enumerate(front, start=1):
        output.print(f"{number:>3}  {entry['text']}")
    output.print(f"Front: {found.files[0]}, {found.files[1]}")
    output.print(f'Cut out: auscult subnet export "{found.result["best"]["address"]}" --out FOLDER')


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.4f} [{low:.4f}, {high:.4f}]"
