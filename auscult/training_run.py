"""One pretraining and its folder: what was asked for, and whether the folder holds the same.

``training.json`` says what a run is, what it reads and by what code its steps were made. Every
checkpoint has a copy, from which it is put back where it was damaged.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from auscult.errors import UserError
from auscult.kept import OBJECT_SEAL, is_damaged, write_object
from auscult.objective import Objective, Training
from auscult.origin import made_by
from auscult.process import ALONE, Processes
from auscult.progress import logger
from auscult.record import code_version, library_versions
from auscult.snapshot import newest_snapshot
from auscult.speech_pool import SpeechPool
from auscult.text import read_bytes
from auscult.watch import AudioChanged

SETTINGS, CHECKPOINTS = "training.json", "checkpoints"
READS = "read_sha256"  # the setting with fingerprints of what a run reads
MADE_BY = "made_by"  # the setting with code and libraries, and the step from which they were used
MIXED = "mixed_audio"  # the setting with a file that changed unnoticed


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One pretraining: what is trained how, on what, and where it is kept."""

    objective: Objective
    config: Training
    pool: SpeechPool
    seed: int
    folder: Path
    about: Mapping[str, str]  # family and corpora: a resumed run must be of the same
    reads: Mapping[str, str]  # fingerprints of audio, labels and encoders, by what they are
    also_read: Sequence[Any] = ()  # cuts that the objective reads beside those of the pool
    device: str = "cpu"
    processes: Processes = ALONE


def check_settings(run: Run) -> None:
    """Write down what the run is, or compare with what the folder says.

    Raises:
        UserError: The folder is that of another run, of audio that changed, or its settings cannot
            be read.
    """
    wanted = {**run.about, "seed": run.seed, **asdict(run.config)}
    reads = {**run.reads, **run.objective.sources()}
    with run.processes.leader_first():
        found = _read_or_restore(run.folder)
        if found is not None:
            _check_same(run.folder, found, wanted)
            _check_unchanged(run.folder, found, reads)
        elif run.processes.leads:
            write_object({**wanted, READS: reads}, run.folder / SETTINGS)


def _check_same(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        key = differing[0]
        if key not in found:
            raise UserError(
                f"{folder} holds a run without {key}, of another kind or begun by an older "
                "Auscult; choose another --out, or end it with what began it."
            )
        raise UserError(
            f"{folder} holds a run with {key} {found.get(key)}, and this one has "
            f"{wanted[key]}; repeat its command to go on, or choose another --out."
        )


def _check_unchanged(folder: Path, found: Mapping[str, Any], now: Mapping[str, str]) -> None:
    """Refuse to go on with other audio, labels or encoders; older folders do not name them."""
    if MIXED in found:
        raise UserError(
            f"The run in {folder} does not go on: {found[MIXED]} became other audio while it "
            "learned, unnoticed, so that it may have learned from both; choose another --out."
        )
    reads = found.get(READS, {})
    for name in reads:
        if reads[name] != now.get(name):
            raise UserError(
                f"The {name} of the run in {folder} has changed since it began; put back what it "
                "was to go on, or choose another --out."
            )


def audio_changed(run: Run, error: AudioChanged) -> UserError:
    """Return what to say where audio changed in mid-run; see that nothing wrong is gone on with."""
    if not error.unnoticed:
        return UserError(
            f"{error.path} changed while it was trained on. What {run.folder} keeps was made of "
            "the audio as it was: put that back and run the same command again to go on, or choose "
            "another --out for the new audio."
        )
    if newest_snapshot(run.folder / CHECKPOINTS) is None:
        return error  # nothing was learned that is kept
    settings = read_training(run.folder) or {}
    write_object({**settings, MIXED: str(error.path)}, run.folder / SETTINGS)
    return UserError(
        f"{error.path} became other audio while it was trained on, and only its content shows it: "
        f"which steps learned from which cannot be told. The run in {run.folder} does not go on; "
        "put back the audio that is meant and choose another --out."
    )


def note_code(run: Run, step: int) -> dict[str, Any]:
    """Write down by what the steps after ``step`` are made, and return all settings.

    What a killed run noted of later steps is forgotten. Where code or libraries are others than
    before, that is said: no one state of the code makes such a run again.
    """
    settings = read_training(run.folder) or {}
    now = _code(run.objective)
    history = [entry for entry in settings.get(MADE_BY, []) if entry["from_step"] < step]
    if not history or history[-1]["sha256"] != now["sha256"]:
        if step:
            before = history[-1]["code_version"] if history else "an older Auscult"
            logger.warning(
                f"The first {step} steps in {run.folder} were made by other code or libraries "
                f"({before}) than this ({now['code_version']}): no one state of the code makes "
                f"this run again. {SETTINGS} says where it changed."
            )
        history.append({"from_step": step, **now})
    if history != settings.get(MADE_BY):
        settings = {**settings, MADE_BY: history}
        write_object(settings, run.folder / SETTINGS)
    return settings


def other_code(run: Run) -> str:
    """Return the versions of other code, or of this with other libraries, that made steps."""
    history = (read_training(run.folder) or {}).get(MADE_BY, [])
    now = _code(run.objective)
    return ", ".join(entry["code_version"] for entry in history if entry["sha256"] != now["sha256"])


def warn_of_other_code(run: Run) -> None:
    """Say it where a finished run was made by other code or libraries than these."""
    if before := other_code(run):
        logger.warning(
            f"{run.folder} was trained, at least in part, by other code or libraries ({before}) "
            f"than this ({code_version()}), and stays as it is; train in another --out for what "
            "this makes."
        )


def _code(objective: Objective) -> dict[str, Any]:
    parts: list[nn.Module] = [*objective.modules()]
    parts += [part for encoder in objective.encoders() for part in encoder.modules()]
    return {
        "code_version": code_version(),
        "libraries": library_versions(),
        "sha256": made_by("auscult.pretraining", *parts),
    }


def read_training(folder: Path) -> dict[str, Any] | None:
    """Return the settings that a run wrote into ``folder``; None where there are none.

    Raises:
        UserError: The file was damaged, or is no table of settings.
    """
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}; put a whole copy in its place.") from error
    if not isinstance(found, dict) or not isinstance(found.get(READS, {}), dict):
        raise UserError(f"{path} holds no settings by name; put a whole copy in its place.")
    if is_damaged(found):
        raise UserError(
            f"{path} was damaged or changed since it was written; put a whole copy in its place "
            f"or, if it was meant, take {OBJECT_SEAL} out of it."
        )
    found.pop(OBJECT_SEAL, None)
    return found


def _read_or_restore(folder: Path) -> dict[str, Any] | None:
    """Return the settings, where the file is missing or damaged those of the newest checkpoint."""
    try:
        found = read_training(folder)
        problem = None
    except UserError as error:
        found, problem = None, error
    if found is not None:
        return found
    _, states = newest_snapshot(folder / CHECKPOINTS) or (None, {})
    if kept := states.get("settings"):
        logger.warning(f"{folder / SETTINGS} was lost or damaged; it is put back.")
        write_object(kept, folder / SETTINGS)
        return dict(kept)
    if problem is not None:
        raise problem
    return None
