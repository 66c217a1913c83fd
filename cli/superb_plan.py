"""What `auscult superb run` is going to do and what came of it, as tables."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.cli.option import duration
from auscult.cli.output import Output
from auscult.progress import logger

if TYPE_CHECKING:
    from auscult.record import Record
    from auscult.studies.cost import Cost, Job
    from auscult.studies.superb import SuperbPlan


def show_superb_plan(output: Output, plan: "SuperbPlan") -> None:
    """Print what is going to be done and what it takes."""
    rows: list[list[object]] = [
        [
            job.name,
            job.heads.address,
            _amounts(job),
            f"{job.config.total_steps:,}" if job.task.trains else 0,
        ]
        for job in plan.jobs
    ]
    rows.extend([one.name, "missing", one.reason] for one in plan.missing)
    rows.extend([one.name, "FAIL", one.reason] for one in plan.failures if not one.upstream)
    output.table("Plan", ("task", "corpus", "utterances (hours)", "steps"), rows)
    if plan.missing:
        output.print("Where a corpus is missing: --corpus TASK=READER:FOLDER names one elsewhere.")
    if plan.costs:
        _show_costs(output, plan.lines())


def _show_costs(output: Output, lines: "Sequence[tuple[Cost, str]]") -> None:
    output.table(
        "Features and time; the time is a rough guess from noise, for encoding alone",
        ("task", "upstream", "state", "features", "they are", "encoding"),
        [
            [
                line.job.name,
                line.upstream,
                state,
                f"{line.num_bytes / 1e9:.3f} GB",
                _handling(line),
                duration(line.seconds),
            ]
            for line, state in lines
        ],
    )
    to_do = [line for line, state in lines if state == "to do"]
    kept = sum(line.num_bytes for line in to_do if line.kept)
    whole = duration(sum(line.seconds for line in to_do))
    folder, free = _free_bytes()
    output.print(
        f"{len(to_do)} heads to do; features of {kept / 1e9:.2f} GB in {folder} "
        f"({free / 1e9:.0f} GB free); encoding takes very roughly {whole}, and the training of "
        "heads comes on top."
    )
    if kept > free:
        logger.warning(
            f"The features may take {kept / 1e9:.2f} GB where {free / 1e9:.2f} GB are free; "
            "choose a smaller --budget, or another folder by AUSCULT_CACHE."
        )


def _handling(line: "Cost") -> str:
    if line.finetuned:
        return "encoded for every batch (the encoder is trained)"
    return "kept" if line.kept else "encoded for every batch (over --budget)"


def _amounts(job: "Job") -> str:
    return ", ".join(
        f"{name} {len(split.cuts):,} ({job.seconds(name) / 3600:.2f} h)"
        for name, split in job.labelled.splits.items()
    )


def _free_bytes() -> tuple[Path, int]:
    """Return where features go, and how much room is there."""
    from auscult.cache import cache_folder

    folder = cache_folder() / "features"
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return folder, shutil.disk_usage(there).free


def show_records(output: Output, records: "Sequence[Record]", out: Path, store: str | None) -> None:
    """Print what was run: SUPERB's tasks as `auscult superb table` does, then any others."""
    from auscult.results.superb.score import BESIDE, TASKS, find_published
    from auscult.results.superb.table import tables
    from auscult.studies.superb import own_rows

    own = own_rows(records)
    if own:
        beside = find_published(BESIDE)
        results, _scores, particulars = tables(own, [beside], beside)
        for table in (results, particulars):
            output.table(table.title, table.columns, table.rows)
    others = [record for record in records if record.task not in TASKS]
    if others:
        rows = [(r.task, r.upstream, r.metric, f"{r.value:.3f}", r.num_items) for r in others]
        output.table(
            "Tasks that SUPERB has not", ("task", "upstream", "metric", "on test", "n"), rows
        )
    if records:
        place = "the store" if store else out  # whose URL may hold a password
        table_of = "STORE" if store else out
        output.print(
            f"Results are in {place}; `auscult superb table {table_of}` shows them beside all "
            "published ones."
        )
