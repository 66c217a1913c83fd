"""Options of the verbs that carry out studies, and how they end."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import MOST, MOST_SEED, Output

if TYPE_CHECKING:
    from auscult.studies import Findings, Plan
    from auscult.studies.catalogue import Catalogue

Limit = Annotated[
    int | None,
    typer.Option(
        help="Only this many utterances of each split, spread evenly over it.", min=1, max=MOST
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        help="Train this long instead; dev is looked at 40 times, as in the protocol, but at "
        "most every 25 steps.",
        min=1,
        max=MOST,
    ),
]
LearningRates = Annotated[
    str | None,
    typer.Option(
        help="Several, each trained in full, of which dev chooses: 1e-2,1e-3,1e-4; or superb, "
        "the grid from 1e-1 to 1e-7."
    ),
]
Finetune = Annotated[
    bool, typer.Option("--finetune", help="Train the encoder too, with the head's learning rate.")
]
Seed = Annotated[
    int, typer.Option(help="Seed of the head and of the data order.", min=0, max=MOST_SEED)
]
TestSplit = Annotated[
    str, typer.Option("--test-split", help="Score on this split, such as test-other.")
]
Baselines = Annotated[
    bool,
    typer.Option("--baselines/--no-baselines", help="Add log_mel and each encoder's random twin."),
]
ExecutorName = Annotated[
    str,
    typer.Option("--executor", help="serial, or local:N: N processes that share the threads."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Of each item on a CPU: all, or an equal share with local:N. The last bits of "
        "numbers depend on it.",
        min=1,
        max=1024,
    ),
]
PlanOnly = Annotated[
    bool, typer.Option("--plan", help="Print what would be done and what is there, and stop.")
]


def show_plan(output: Output, plan: "Plan") -> None:
    """Print the items of a plan, and what they take."""
    rows = plan.to_dicts()
    output.table(
        "Plan; times are rough guesses from noise, for encoding alone",
        ("upstream", "what", "state", "encoding", "disk", "memory"),
        [
            (
                row["upstream"],
                row["what"],
                row["state"],
                *(_known(row[name], unit) for name, unit in _TAKES),
            )
            for row in rows
        ],
    )
    if all(row["state"] == "there" for row in rows):
        output.print(f"{len(rows)} items; all are there, nothing is left to do.")
        output.finish(plan=rows)
        return
    seconds, disk = (sum(row[name] or 0 for row in rows) for name, _ in _TAKES[:2])
    output.print(
        f"{len(rows)} items; encoding takes very roughly {duration(seconds)} and features take "
        f"{disk / 1e9:.2f} GB; the training of probes and heads, and some 1 GB of memory for each "
        "process, come on top."
    )
    output.finish(plan=rows)


_TAKES = (("encoding_seconds_guessed", "s"), ("disk_bytes", "GB"), ("memory_bytes", "GB"))


def _known(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return duration(value) if unit == "s" else f"{value / 1e9:.2f} GB"


def duration(seconds: float) -> str:
    """Return a length of time in the unit that suits it."""
    for unit, size in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def finish(output: Output, found: "Findings", **extra: Any) -> None:
    """Print the JSON object, and end with status 1 where an item failed."""
    output.finish(found.records, failures=[str(failure) for failure in found.failures], **extra)
    if found.failures:
        raise typer.Exit(1)


def show_catalogue(output: Output, found: "Catalogue") -> None:
    """Print what there is to choose from."""
    for table in found.tables:
        output.table(*table)
    output.finish(**found.entries)
