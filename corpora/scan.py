"""What is in an audio file: decoded once, remembered as long as the file does not change."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auscult import watch
from auscult.cache import cache_folder
from auscult.decoder import AudioFile, Undecodable, open_audio, rate_problem
from auscult.kept import read_json, write_json
from auscult.progress import progress

from .riff import missing_audio

FORMAT = 4  # of the remembered scans
THREADS = 2
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
    try:
        if lacks := missing_audio(path):
            return _bad(lacks)
        with open_audio(path) as file:
            if problem := rate_problem(file.samplerate):
                return _bad(problem)
            return _scan(file, watch.file_sha256(path))
    except Undecodable as error:
        return _bad(f"cannot be read as audio: {error}")
    except OSError as error:
        return _bad(f"cannot be read: {error.strerror or error}")


def _bad(problem: str) -> Scan:
    return Scan("", 0, 0, 0, "", problem)


def _scan(file: AudioFile, content_sha256: str) -> Scan:
    rate, channels = file.samplerate, file.channels
    digest = hashlib.sha256(f"{rate} {channels} ".encode())
    frames, loud, finite = 0, False, True
    for block in file.blocks_from():
        digest.update(np.ascontiguousarray(block, dtype="<f4").data)
        frames += len(block)
        loud = loud or bool(block.any())
        finite = finite and bool(np.isfinite(block).all())
    problem = ""
    if frames == 0:
        problem = "holds no samples"
    elif not finite:
        problem = "holds NaN or infinite samples"
    elif not loud:
        problem = ALL_ZERO
    return Scan(digest.hexdigest(), frames, rate, channels, content_sha256, problem)


def scan_files(paths: Sequence[Path]) -> dict[Path, Scan]:
    """Decode all ``paths``, which exist, each once.

    Scans of audio are remembered in the cache folder by path, size and times of change, one file
    for each folder that holds all the paths. An interrupted scan keeps what it has seen.
    """
    names = {path: os.path.abspath(path) for path in dict.fromkeys(paths)}
    if not names:
        return {}
    root = os.path.commonpath([os.path.dirname(name) for name in names.values()])
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    memory = cache_folder() / "scans" / f"{key}-{FORMAT}.json"
    known: dict[str, Any] = read_json(memory) or {}
    found: dict[Path, Scan] = {}
    stamps: dict[Path, watch.Stamp] = {}
    for path, name in names.items():
        try:
            stamps[path] = watch.Stamp.of(path)
        except OSError as error:  # gone since it was listed
            found[path] = _bad(f"cannot be read: {error.strerror or error}")
            continue
        stamp, fields = known.get(name, (None, ()))
        if stamp == list(astuple(stamps[path])):
            found[path] = Scan(*fields)
    missing = [path for path in names if path not in found]
    if missing:
        try:
            _scan_into(found, missing)
        finally:
            fresh = {
                names[path]: [astuple(stamps[path]), astuple(scan)]
                for path, scan in found.items()
                if scan.content_sha256  # a disk that failed may work again
            }
            write_json(known | fresh, memory)
    for path, stamp in stamps.items():
        watch.remember(path, stamp, found[path].content_sha256)
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
