"""What is in an audio file: decoded once, remembered as long as the file does not change."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from auscult import watch
from auscult.feature import cache_folder
from auscult.kept import read_json, write_json
from auscult.progress import progress

from .riff import missing_audio

FORMAT = 3  # of the remembered scans
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
    content_sha256: str = ""  # of the file's bytes
    problem: str = ""  # what is wrong with it, to stand after the file's name


def scan_file(path: Path) -> Scan:
    """Decode ``path`` from beginning to end."""
    frames, loud, finite = 0, False, True
    try:
        if lacks := missing_audio(path):
            return Scan("", 0, 0, 0, "", lacks)
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
        return Scan("", 0, 0, 0, "", f"cannot be read as audio: {reason.strip().rstrip('.')}")
    problem = ""
    if frames == 0:
        problem = "holds no samples"
    elif not finite:
        problem = "holds NaN or infinite samples"
    elif not loud:
        problem = ALL_ZERO
    return Scan(digest.hexdigest(), frames, rate, channels, watch.file_sha256(path), problem)


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
    stamps = {path: watch.Stamp.of(path) for path in names}
    for path, name in names.items():
        stamp, fields = known.get(name, (None, ()))
        if stamp == list(astuple(stamps[path])):
            found[path] = Scan(*fields)
    missing = [path for path in names if path not in found]
    if missing:
        try:
            _scan_into(found, missing)
        finally:
            fresh = {names[p]: [astuple(stamps[p]), astuple(scan)] for p, scan in found.items()}
            write_json([FORMAT, known | fresh], memory)
    for path, scan in found.items():
        watch.remember(path, stamps[path], scan.content_sha256)
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
    """Return stamp and scan of each remembered file, by its absolute path."""
    memory_format, scans = read_json(memory) or (FORMAT, {})
    return dict(scans) if memory_format == FORMAT else {}
