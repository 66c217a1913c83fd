"""What is in an audio file: decoded once, remembered as long as the file does not change."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from auscult.feature import cache_folder
from auscult.progress import progress

from .riff import missing_audio

FORMAT = 2  # of the remembered scans
THREADS = 2
BLOCK = 2**20  # frames decoded at a time
ALL_ZERO = "holds only zeros"


@dataclass(frozen=True, slots=True)
class Scan:
    """One audio file, decoded."""

    sha256: str  # of rate, channels and decoded samples: the container does not matter
    frames: int
    rate: int
    channels: int
    problem: str = ""  # what is wrong with it, to stand after the file's name


def scan_file(path: Path) -> Scan:
    """Decode ``path`` from beginning to end."""
    frames, loud, finite = 0, False, True
    try:
        if lacks := missing_audio(path):
            return Scan("", 0, 0, 0, lacks)
        with soundfile.SoundFile(path) as file:
            rate, channels = file.samplerate, file.channels
            digest = hashlib.sha256(f"{rate} {channels} ".encode())
            for block in file.blocks(BLOCK, dtype="float32", always_2d=True):
                digest.update(np.ascontiguousarray(block, dtype="<f4").data)
                frames += len(block)
                loud = loud or bool(block.any())
                finite = finite and bool(np.isfinite(block).all())
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        reason = (getattr(error, "error_string", "") or str(error)).removeprefix("Error : ")
        return Scan("", 0, 0, 0, f"cannot be read as audio: {reason.strip().rstrip('.')}")
    problem = ""
    if frames == 0:
        problem = "holds no samples"
    elif not finite:
        problem = "holds NaN or infinite samples"
    elif not loud:
        problem = ALL_ZERO
    return Scan(digest.hexdigest(), frames, rate, channels, problem)


def scan_files(paths: Sequence[Path]) -> dict[Path, Scan]:
    """Decode all ``paths``, which exist, each once.

    Scans are remembered in the cache folder by path, size and time of change, one file for each
    folder that holds all the paths. An interrupted scan keeps what it has seen.
    """
    names = {path: os.path.abspath(path) for path in dict.fromkeys(paths)}
    if not names:
        return {}
    root = os.path.commonpath([os.path.dirname(name) for name in names.values()])
    memory = cache_folder() / "scans" / f"{hashlib.sha256(root.encode()).hexdigest()[:16]}.json"
    known = _recall(memory)
    found: dict[Path, Scan] = {}
    stamps: dict[Path, list[int]] = {}
    for path, name in names.items():
        status = path.stat()
        stamps[path] = [status.st_size, status.st_mtime_ns]
        size, changed, *fields = known.get(name, (None, None))
        if [size, changed] == stamps[path]:
            found[path] = Scan(*fields)
    missing = [path for path in names if path not in found]
    if missing:
        try:
            _scan_into(found, missing)
        finally:
            fresh = {names[p]: [*stamps[p], *astuple(scan)] for p, scan in found.items()}
            _remember(memory, known | fresh)
    return found


def _scan_into(found: dict[Path, Scan], paths: list[Path]) -> None:
    pool = ThreadPoolExecutor(THREADS)
    try:
        with progress("Checking audio", len(paths), "file") as advance:
            for path, scan in zip(paths, pool.map(scan_file, paths), strict=True):
                found[path] = scan
                advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _recall(memory: Path) -> dict[str, list[Any]]:
    """Return the remembered scans; none where the file is missing or was damaged."""
    try:
        memory_format, scans = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(scans) if memory_format == FORMAT else {}


def _remember(memory: Path, scans: Mapping[str, list[Any]]) -> None:
    """Write the scans, to a temporary name first: another process may be reading."""
    memory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=memory.parent, suffix=".tmp", delete=False
    ) as file:
        json.dump([FORMAT, scans], file)
    os.replace(file.name, memory)
