"""`auscult superb`: results beside published ones, and submissions to SUPERB's leaderboard."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from auscult.cli.output import Json, Output, Quiet
from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.text import read_text
from auscult.whole_file import write_text

if TYPE_CHECKING:
    from auscult.downstreams.prediction import Predictions
    from auscult.results.superb_check import Expected, PartReport
    from auscult.results.superb_submission import Part

SAME_TEST = "all_train_split"  # LibriSpeech's column that differs in train alone
WITH_LM = "prediction_lm"  # what speech recognition answers with a language model


def table(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="STORE...", help="Folders, .sqlite files or URLs.", show_default=False
        ),
    ],
    against: Annotated[
        str, typer.Option(help="Published model that differences are taken to.")
    ] = "HuBERT Base",
    form: Annotated[
        str | None,
        typer.Option("--format", help="markdown, latex or csv, instead of the screen's."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File instead of stdout.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show results on SUPERB's tasks beside published ones, with the leaderboard's scores.

    A result may be compared where the corpus is SUPERB's own, complete, and the head was trained
    by the published protocol, but for the learning rate. Any other is marked * and says why; it
    has no difference to published results and no part in a score.

    Examples:
      auscult superb table out
      auscult superb table out --against "WavLM Base" --format markdown --out superb.md
    """
    from auscult.results import open_store
    from auscult.results.store import records_of
    from auscult.results.superb import find_published, published
    from auscult.results.superb_table import WRITERS, flat_rows, own_rows, tables

    output = Output(json=json, quiet=quiet)
    if form is not None and form not in WRITERS:
        raise unknown("format", form, WRITERS)
    other = find_published(against)
    own = own_rows(records_of(map(open_store, stores)), protocols())
    if not own:
        logger.warning("No result on a task of SUPERB in these stores; `auscult run` makes some.")
    if form is None and out is None:
        for found in tables(own, published(), other):
            output.table(found.title, found.columns, found.rows)
    else:
        text = WRITERS[form or "markdown"](own, published(), other)
        if out is None:
            output.write([text])
        else:
            write_text(text, out)
            logger.info(f"Table written to {out}.")
    output.finish(models=flat_rows(own, published()))


def zip_(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders that --out of `auscult run` was given, or below."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The zip to write.")] = Path("predict.zip"),
    upstream: Annotated[
        str | None, typer.Option("-u", "--upstream", help="Encoder, where runs are of several.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write one encoder's predictions as SUPERB's leaderboard wants them, and check them.

    Every task of SUPERB that the runs have predictions of is put in, but for those on other data
    than SUPERB's, which are named. Exits with status 1 if the check finds anything wrong.

    Examples:
      auscult superb zip out --out predict.zip
      auscult superb zip out/heads/keyword_spotting-0123456789abcdef more -u fbank
    """
    from auscult.results.superb_check import check_submission
    from auscult.results.superb_submission import write_submission

    output = Output(json=json, quiet=quiet)
    chosen, left_out = _choose_runs(runs, upstream)
    write_submission(out, {code: _part(code, found) for code, found in chosen.items()})
    reports = check_submission(out)
    _show(output, out, reports)
    output.finish(
        zip=str(out),
        runs={code: str(found.folder) for code, found in chosen.items()},
        left_out=left_out,
        parts=[asdict(report) for report in reports],
    )
    _exit_on_problems(reports)


def check(
    path: Annotated[Path, typer.Argument(metavar="ZIP", help="The submission.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TASK=CORPUS",
            help="Hold the names of a task against a corpus's test split, or an official list.",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find what SUPERB's server would not tell: missing, doubled, unknown and broken predictions.

    Tasks are named as in the zip: pr, asr, asr_lm, ks, ic, sid, er, sf, sv, sd, qbe. Without
    --against, their number is held against that of the official test set. Exits with status 1 if
    anything is wrong.

    Examples:
      auscult superb check predict.zip
      auscult superb check predict.zip --against ks=speech_commands:data/sc --against sv=trials.txt
    """
    from auscult.results.superb_check import check_submission

    output = Output(json=json, quiet=quiet)
    reports = check_submission(path, _expected(against or []))
    _show(output, path, reports)
    output.finish(parts=[asdict(report) for report in reports])
    _exit_on_problems(reports)


def _exit_on_problems(reports: "Sequence[PartReport]") -> None:
    if any(report.problems for report in reports):
        raise SystemExit(1)


def _choose_runs(
    folders: Sequence[Path], upstream: str | None
) -> "tuple[dict[str, Predictions], list[str]]":
    """Return the predictions for each part of a submission, and why others are left out.

    Raises:
        UserError: There are none, those of several encoders, or several of one task.
    """
    from auscult.downstreams.prediction import find_predictions, read_predictions
    from auscult.results.superb_submission import CODES, FILES

    found = [read_predictions(place) for folder in folders for place in find_predictions(folder)]
    found = [run for run in found if run.run.task in CODES]
    names = sorted({run.run.upstream for run in found})
    where = ", ".join(map(str, folders))
    if not names:
        raise UserError(
            f"{where}: no predictions of a SUPERB task; `auscult run --out` leaves them in its "
            "folder heads."
        )
    if upstream is not None and upstream not in names:
        raise unknown("upstream among these predictions", upstream, names)
    if upstream is None and len(names) > 1:
        raise UserError(f"{where}: predictions of {', '.join(names)}; choose one with -u.")
    chosen: dict[str, Predictions] = {}
    left_out: list[str] = []
    for run in found:
        if run.run.upstream != (upstream or names[0]):
            continue
        if reason := _foreign(run):
            left_out.append(f"{run.folder} is left out: {reason}.")
            logger.warning(left_out[-1])
            continue
        code = _code(run)
        if code in chosen and chosen[code].folder != run.folder:
            raise UserError(
                f"{run.run.upstream} has several predictions for {code}, in "
                f"{chosen[code].folder} and {run.folder}; name the folders that shall go in."
            )
        chosen[code] = run
        if code == "asr" and WITH_LM in run.items[0]:
            chosen["asr_lm"] = run
    if not chosen:
        raise UserError(
            f"{where}: no predictions on SUPERB's own corpora, splits and classes, and its server "
            f"scores no others; {left_out[0]}"
        )
    return {code: chosen[code] for code in FILES if code in chosen}, left_out


def _foreign(found: "Predictions") -> str:
    """Say why SUPERB's server cannot score these predictions, "" where it can."""
    from auscult.results.superb_submission import SLOTS, has_official_slots
    from auscult.results.superb_table import OFFICIAL

    run, official = found.run, OFFICIAL[found.run.task]
    if run.corpus.partition(":")[0] != official.reader:
        return f"{run.task} on {run.corpus}, where SUPERB scores that on {official.reader}"
    if run.split != "test":
        return f"{run.task} on the split {run.split}, where SUPERB scores test"
    emotions = run.task == "emotion_recognition"
    columns = "fold1 to fold5" if emotions else official.split_column
    fits = _fold(run.split_column) if emotions else run.split_column in (columns, SAME_TEST)
    if not fits:
        return f"{run.task} on split column {run.split_column!r}, where SUPERB scores {columns}"
    if run.task == "intent_classification" and not has_official_slots(run.classes):
        return f"its intents have other slots than SUPERB's {', '.join(SLOTS)}"
    return ""


def _fold(column: str) -> str | None:
    import re

    found = re.fullmatch(r"fold\D?([1-5])", column)
    return found[1] if found else None


def _code(found: "Predictions") -> str:
    """Return what a submission calls the task of these predictions."""
    from auscult.results.superb_submission import CODES

    code = CODES[found.run.task]
    return f"er_fold{_fold(found.run.split_column)}" if code == "er" else code


def _part(code: str, found: "Predictions") -> "Part":
    from auscult.results.superb_submission import Part

    slots = dict.fromkeys(name.partition("=")[0] for name in found.run.classes)
    answer = WITH_LM if code == "asr_lm" else "prediction"
    return Part(found.items, found.run.stride, tuple(slots), answer)


def _show(output: Output, path: Path, reports: "Sequence[PartReport]") -> None:
    rows = [
        [
            report.code,
            f"{report.num_items:,}",
            None if report.num_expected is None else f"{report.num_expected:,}",
            "names" if report.by_name else "number" if report.num_expected else "neither",
            "FAIL" if report.problems else "pass",
        ]
        for report in reports
    ]
    output.table(str(path), ("task", "items", "expected", "held against", "result"), rows)
    for report in reports:
        for problem in report.problems:
            output.print(f"{report.code}: {problem}")


def _expected(assignments: Sequence[str]) -> "dict[str, Expected]":
    """Read the names that must be there.

    Raises:
        UserError: An assignment that cannot be read.
    """
    from auscult.results.superb_check import FOLDS, names_in_list
    from auscult.results.superb_submission import FILES

    found: dict[str, Expected] = {}
    for assignment in assignments:
        code, _, spec = assignment.partition("=")
        if code not in (*FILES, "er"):
            raise unknown("task of a submission", code, (*FILES, "er"))
        if Path(spec).is_file():
            found[code] = names_in_list(code, read_text(Path(spec)))
        elif code == "er":
            for fold in FOLDS:
                found[fold] = dict(_corpus_names(fold, spec))
        else:
            found[code] = dict(_corpus_names(code, spec))
    if "er" in found:
        raise UserError("er=FILE: each fold has a list of its own; pass er_fold1=FILE and so on.")
    return found


def _corpus_names(code: str, spec: str) -> "Iterator[tuple[str, float | None]]":
    """Yield the name and the seconds of what a corpus has to be scored."""
    import auscult
    from auscult.results.superb_submission import item_name
    from auscult.results.superb_table import OFFICIAL

    official = OFFICIAL["speaker_verification"]
    column = code.removeprefix("er_") if code.startswith("er_fold") else None
    if code == "sv" and spec.partition(":")[0] == official.reader:
        column = official.split_column
    corpus = auscult.corpus(spec, split=column)
    if code == "qbe":
        for query in corpus.split("test"):
            for document in corpus.split("documents"):
                yield item_name(code, {"id": (query.id, document.id)}), None
    elif code == "sv":
        if not corpus.trials.get("test"):
            raise UserError(f"{spec} has no trials for its test split; pass sv=FILE.")
        for trial in corpus.trials["test"]:
            yield item_name(code, {"id": (trial.first, trial.second)}), None
    else:
        for cut in corpus.split("test"):
            yield item_name(code, {"id": cut.id}), cut.duration


def protocols() -> Mapping[str, Mapping[str, Any]]:
    """Return the published configuration of every task that trains a head."""
    from auscult.downstreams import TASKS

    return {name: asdict(task.config()) for name, task in TASKS.items()}
