"""From cuts to padded batches: mono float32 at 16 kHz, checked where it is read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from auscult import watch
from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.errors import UserError


def read_samples(cut: Any) -> torch.Tensor:
    """Return a cut's samples (time,), float32, resampled to 16 kHz, channels averaged.

    Raises:
        UserError: The audio cannot be decoded, is empty, or holds NaN or infinite samples.
    """
    resampled = cut if cut.sampling_rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE)
    try:
        samples = np.asarray(resampled.load_audio(), dtype=np.float32)
    except Exception as error:  # lhotse's backends raise many kinds
        _check_unchanged(cut)
        reason = _reason(error, _path_of(cut))
        raise UserError(f"{_name_of(cut)} cannot be read as audio: {reason}.") from error
    _check_unchanged(cut)
    samples = samples.mean(axis=0) if samples.ndim == 2 else samples
    if samples.size == 0:
        raise UserError(f"{_name_of(cut)} holds no samples; remove it or pass --skip-bad.")
    if not np.isfinite(samples).all():
        raise UserError(f"{_name_of(cut)} holds NaN or infinite samples; mend it or --skip-bad.")
    return torch.from_numpy(np.ascontiguousarray(samples))


def read_batch(cuts: Sequence[Any]) -> Waveforms:
    """Return a padded batch of the cuts' audio."""
    return Waveforms.of([read_samples(cut) for cut in cuts])


def _reason(error: Exception, path: str | None) -> str:
    """Return what libsndfile said, out of lhotse's account of all its backends."""
    text = str(error).strip()
    if path is not None and not Path(path).exists():
        return "it does not exist"
    if said := re.search(r"LibsndfileError'>: (?:Error opening .*?: |Error : )?(.+)", text):
        return said[1].rstrip(".")
    if "declared samples" in text:
        return "it is not as long as it was when the corpus was read"
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__


def _check_unchanged(cut: Any) -> None:
    path = _path_of(cut)
    if path is not None and Path(path).exists():
        watch.check(path)


def _path_of(cut: Any) -> str | None:
    """Return the cut's audio file; None where its audio is in memory."""
    sources = getattr(getattr(cut, "recording", None), "sources", None) or []
    return str(sources[0].source) if sources and sources[0].type == "file" else None


def _name_of(cut: Any) -> str:
    return _path_of(cut) or f"Cut {cut.id}"
