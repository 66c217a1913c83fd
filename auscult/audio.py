"""From cuts to padded batches: mono float32 at 16 kHz, checked where it is read.

Cuts stay lhotse's, and so does what is done to them. Their files are decoded by
:mod:`auscult.decoder`, as they were when the corpus was checked; lhotse itself would choose a
library by the name's end.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.audio import AudioSource
from lhotse.augmentation import AudioTransform, Resample
from lhotse.utils import compute_num_samples, fastcopy
from numpy.typing import NDArray

from auscult import watch
from auscult.contracts import SAMPLE_RATE, Waveforms
from auscult.decoder import Undecodable, open_audio, rate_problem
from auscult.errors import UserError

_LARGEST_KERNEL = (
    2**20
)  # weights of torchaudio's resampling; it has rate times rate where both are prime


def read_samples(cut: Any) -> torch.Tensor:
    """Return a cut's samples (time,), float32, resampled to 16 kHz, channels averaged.

    Raises:
        UserError: The audio cannot be decoded, is empty, is not what it was when its corpus was
            read, or holds NaN or infinite samples.
    """
    if problem := rate_problem(cut.sampling_rate):
        raise UserError(f"{_name_of(cut)} {problem}.")
    resampled = cut if cut.sampling_rate == SAMPLE_RATE else cut.resample(SAMPLE_RATE)
    try:
        samples = np.asarray(_read_by_us(resampled).load_audio(), dtype=np.float32)
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


class _File(AudioSource):  # type: ignore[misc]  # lhotse has no types
    """A file that is decoded by us."""

    def load_audio(
        self,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> NDArray[np.float32]:
        """Return samples (channel, time)."""
        with open_audio(Path(str(self.source))) as file:
            start = compute_num_samples(offset, file.samplerate)
            count = None if duration is None else compute_num_samples(duration, file.samplerate)
            return file.samples(start, count).T


class _OddResample(Resample):  # type: ignore[misc]
    """Resampling between rates whose ratio has large terms, in memory bounded by the audio."""

    def __call__(self, samples: NDArray[np.float32], *_: object) -> NDArray[np.float32]:
        """Return samples (channel, time) at the other rate, as many as torchaudio would give."""
        import soxr  # of all that is read, hardly anything needs it

        source, target = self.source_sampling_rate, self.target_sampling_rate
        found = soxr.resample(samples.T, source, target, quality="VHQ").T
        lacking = math.ceil(samples.shape[1] * target / source) - found.shape[1]
        return np.pad(found, ((0, 0), (0, max(lacking, 0))))[:, : found.shape[1] + lacking]


def _read_by_us(cut: Any) -> Any:
    """Return the cut with sources and resampling of ours in the places of lhotse's."""
    if hasattr(cut, "tracks"):  # a mixture of cuts
        tracks = [fastcopy(track, cut=_read_by_us(track.cut)) for track in cut.tracks]
        return fastcopy(cut, tracks=tracks)
    recording = getattr(cut, "recording", None)
    if recording is None:  # a pause in a mixture
        return cut
    sources = [_File(**vars(s)) if s.type == "file" else s for s in recording.sources]
    transforms = [_bounded(transform) for transform in recording.transforms or []]
    return fastcopy(
        cut, recording=fastcopy(recording, sources=sources, transforms=transforms or None)
    )


def _bounded(transform: Any) -> Any:
    """Return soxr in the place of a resampling whose kernel is out of proportion."""
    found = AudioTransform.from_dict(transform) if isinstance(transform, dict) else transform
    if type(found) is not Resample:
        return found
    rates = found.source_sampling_rate, found.target_sampling_rate
    source, target = (rate // math.gcd(*rates) for rate in rates)
    # torchaudio: six zero crossings to either side, a kernel for each phase
    width = math.ceil(6 * source / (0.99 * min(source, target)))
    if target * (2 * width + source) <= _LARGEST_KERNEL:
        return found
    return _OddResample(*rates)


def _reason(error: Exception, path: str | None) -> str:
    """Return what the decoder said, or what is clear without lhotse's account of itself."""
    text = str(error).strip()
    if path is not None and not Path(path).exists():
        return "it does not exist"
    if isinstance(error, Undecodable):
        return text.splitlines()[0]
    if "declared samples" in text or "more audio" in text:
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
