"""The pretraining study: encoders are made, from nothing or from a teacher."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auscult.errors import UserError

if TYPE_CHECKING:
    from auscult.objective import Objective, Training


def _assignments(path: Path | None) -> list[str]:
    """Read KEY = VALUE lines; values become text again, which the configuration checks."""
    import tomllib

    from auscult.registry import refuse_code
    from auscult.text import read_text

    if path is None:
        return []
    try:
        found = tomllib.loads(read_text(path))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path} is no TOML: {error}; expected lines such as dim = 192.") from error
    for key, value in found.items():
        if isinstance(value, dict | list):
            raise UserError(f"{path}: {key} is a table or a list; expected one value.")
    return [f"{key}={refuse_code(str(value), path)}" for key, value in found.items()]


def _read(spec: str, splits: str, skip_bad: bool) -> tuple[list[Any], list[str]]:
    """Return the utterances of a corpus' splits, or of all audio in a folder; their hashes."""
    import auscult
    from auscult.corpora import READERS, read_folder

    folder = Path(os.path.expanduser(spec))
    if ":" not in spec and "/" in spec and not os.path.isdir(folder):
        raise UserError(f"{spec} is no folder; expected one with audio, or READER[:FOLDER].")
    if spec.partition(":")[0] not in READERS and os.path.isdir(folder):
        found = read_folder(folder, skip_bad=skip_bad)
        names = list(found.splits)
    else:
        address, _, column = spec.partition("#")
        found = auscult.corpus(address, split=column or None, skip_bad=skip_bad)
        names = list(found.splits) if splits == "all" else splits.split(",")
    cuts = [cut for name in names for cut in found.split(name)]
    return cuts, [found.audio_sha256[name] for name in names]


def _describe(training: "Training", objective: "Objective", cuts: list[Any]) -> dict[str, Any]:
    trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
    hours = sum(cut.duration for cut in cuts) / 3600
    epochs = training.total_steps * training.batch_seconds / 3600 / hours
    return {
        **asdict(training),
        "trained_parameters": trained,
        "utterances": len(cuts),
        "hours": round(hours, 3),
        "epochs_at_most": round(epochs, 2),
    }


def _announce(training: "Training", shown: dict[str, Any], preset: str, device: str) -> None:
    """Say how much is about to be done."""
    from auscult.progress import logger

    logger.info(
        f"{training.total_steps:,} steps of {training.batch_seconds:g} s of audio, of which there "
        f"are {shown['hours']:g} h; {shown['trained_parameters']:,} parameters."
    )
    if preset == "published" and device == "cpu":
        logger.info("That is the published protocol; --preset tiny or small is made for a CPU.")
