"""A submission to SUPERB's leaderboard: which runs go into it, and what must be in it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from auscult.errors import UserError, unknown
from auscult.progress import logger
from auscult.text import read_text

if TYPE_CHECKING:
    from auscult.downstreams.prediction import Predictions
    from auscult.results.superb.check import Expected, PartReport
    from auscult.results.superb.submission import Part

SAME_TEST = "all_train_split"  # LibriSpeech's column that differs in train alone
WITH_LM = "prediction_lm"  # what speech recognition answers with a language model


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A zip of predictions, and what was found in it."""

    path: Path
    runs: "dict[str, Path]"  # part -> the folder that its predictions are from
    left_out: tuple[str, ...]  # a sentence for each run on other data than SUPERB's
    reports: "tuple[PartReport, ...]"


def submit(
    runs: Sequence[str | Path], out: str | Path = "predict.zip", *, upstream: str | None = None
) -> Submission:
    """Write one encoder's predictions as SUPERB's leaderboard wants them, and check them.

    Args:
        runs: Folders that were ``out`` of :func:`auscult.run` or :func:`auscult.superb`.
        out: The zip.
        upstream: Encoder, where runs are of several.

    Raises:
        UserError: There are no predictions that the leaderboard scores, those of several encoders,
            or several of one task.
    """
    from auscult.results.superb.check import check_submission
    from auscult.results.superb.submission import write_submission

    chosen, left_out = _choose_runs([Path(folder) for folder in runs], upstream)
    path = Path(out)
    write_submission(path, {code: _part(code, found) for code, found in chosen.items()})
    return Submission(
        path=path,
        runs={code: found.folder for code, found in chosen.items()},
        left_out=tuple(left_out),
        reports=tuple(check_submission(path)),
    )


def check(path: str | Path, against: Sequence[str] = ()) -> "tuple[PartReport, ...]":
    """Return what is wrong with a submission.

    Args:
        path: The zip.
        against: ``TASK=CORPUS`` or ``TASK=FILE``: whose names a task must have.

    Raises:
        UserError: No submission at all, or an assignment that cannot be read.
    """
    from auscult.results.superb.check import check_submission

    return tuple(check_submission(Path(path), _expected(against)))


def _choose_runs(
    folders: Sequence[Path], upstream: str | None
) -> "tuple[dict[str, Predictions], list[str]]":
    """Return the predictions for each part of a submission, and why others are left out.

    Raises:
        UserError: There are none, those of several encoders, or several of one task.
    """
    from auscult.downstreams.prediction import find_predictions, read_predictions
    from auscult.results.superb.submission import CODES, FILES

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
    from auscult.results.superb.official import OFFICIAL
    from auscult.results.superb.submission import SLOTS, has_official_slots

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
    found = re.fullmatch(r"fold\D?([1-5])", column)
    return found[1] if found else None


def _code(found: "Predictions") -> str:
    """Return what a submission calls the task of these predictions."""
    from auscult.results.superb.submission import CODES

    code = CODES[found.run.task]
    return f"er_fold{_fold(found.run.split_column)}" if code == "er" else code


def _part(code: str, found: "Predictions") -> "Part":
    from auscult.results.superb.submission import Part

    slots = dict.fromkeys(name.partition("=")[0] for name in found.run.classes)
    answer = WITH_LM if code == "asr_lm" else "prediction"
    return Part(found.items, found.run.stride, tuple(slots), answer)


def _expected(assignments: Sequence[str]) -> "dict[str, Expected]":
    """Read the names that must be there.

    Raises:
        UserError: An assignment that cannot be read.
    """
    from auscult.results.superb.check import FOLDS, names_in_list
    from auscult.results.superb.submission import FILES

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
    from auscult.results.superb.official import OFFICIAL
    from auscult.results.superb.submission import item_name

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
