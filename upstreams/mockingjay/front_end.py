"""From the samples of one utterance to the frames that a Mockingjay reads.

There are three kinds: two here, and Kaldi's filterbanks, which are a `Recipe` of the baselines.

Means, deviations and levels are those of the whole utterance, taken before any padding; they are
not counted in receptive fields. The first and last frames of deltas see only the frames there are.
"""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from auscult.contracts import SAMPLE_RATE
from auscult.frame import FrameGeometry

from ..spectral import DELTA_REACH, STRIDE, WINDOW, normalize

NUM_BINS = 201  # of s3prl's transform of 400 samples


class FrontEnd(Protocol):
    """From samples to the encoder's input."""

    @property
    def dim(self) -> int:
        """Width of a frame."""
        ...

    @property
    def geometry(self) -> FrameGeometry:
        """Where a frame lies in the audio."""
        ...

    def features(self, samples: Tensor) -> Tensor:
        """Return frames (frame, dim) of one utterance's samples (time,)."""
        ...

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        ...


@dataclass(frozen=True)
class OnlineFrontEnd:
    """s3prl's own features: the utterance at one level, then 25 ms every 10 ms, then CMVN.

    Reference: s3prl 0.4.18, upstream/baseline/preprocessor.py and upstream/mockingjay/builder.py.
    """

    kind: Literal["mel", "linear"] = "mel"
    num_mels: int = 80
    log: bool = True
    delta_order: int = 0
    cmvn: bool = True
    target_level: float = -25.0  # dB of full scale, of the utterance's root mean square

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return (self.num_mels if self.kind == "mel" else NUM_BINS) * (self.delta_order + 1)

    @property
    def geometry(self) -> FrameGeometry:
        """Where a frame lies: around its sample, as the first of a Hann window's 400 is zero."""
        reach = WINDOW // 2 - 1 + self.delta_order * DELTA_REACH * STRIDE
        return FrameGeometry(STRIDE, 2 * reach + 1, -reach)

    def features(self, samples: Tensor) -> Tensor:
        """Return frames (frame, dim) of one utterance's samples (time,)."""
        root_mean_square = samples.square().mean().sqrt()
        samples = samples * (10 ** (self.target_level / 20) / (root_mean_square + 1e-10))
        spectrum = _power(samples, size=WINDOW, window=WINDOW, stride=STRIDE)
        if self.kind == "mel":
            spectrum = _mel(spectrum, self.num_mels, scale="htk", norm=None)
        parts = [(spectrum + 1e-10).log() if self.log else spectrum]
        for _ in range(self.delta_order):
            parts.append(torchaudio.functional.compute_deltas(parts[-1]))
        found = torch.cat(parts).T
        return normalize(found) if self.cmvn else found

    @property
    def linear_dim(self) -> int:
        """Width of a frame of :meth:`linear`."""
        return NUM_BINS

    def linear(self, samples: Tensor) -> Tensor:
        """Return what may be predicted instead of the features: all bins, (frame, linear dim)."""
        return replace(self, kind="linear", delta_order=0).features(samples)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,), none where reflection would reach beyond the utterance."""
        frames = lengths.div(STRIDE, rounding_mode="floor") + 1
        return frames.masked_fill(lengths <= WINDOW // 2, 0)


@dataclass(frozen=True)
class AlbertFrontEnd:
    """The papers' features: librosa's log-mel filters and their slopes, CMVN, frames stacked.

    50 ms every 12.5 ms. An incomplete last stack is dropped. librosa of 2020 pads by reflection,
    as here; since 0.10 it pads with zeros unless told otherwise.

    Reference: s3prl, branch AlbertNew, utility/audio.py.
    """

    stack: int = 3

    size = 2048  # of the transform, in samples
    window = 800
    stride = 200
    num_mels = 80
    slope_window = 9  # frames that a slope is fitted to
    preemphasis = 0.97  # of the linear spectrum
    reference_level = 20.0  # dB, of the linear spectrum, which is one there
    floor_level = -100.0  # dB below it, where the linear spectrum is zero

    @property
    def dim(self) -> int:
        """Width of a stacked frame."""
        return self.stack * 2 * self.num_mels

    @property
    def geometry(self) -> FrameGeometry:
        """Where a stacked frame lies; of a Hann window's 800 samples the first is zero."""
        reach = self.window // 2 - 1 + self.slope_window // 2 * self.stride
        field = 2 * reach + 1 + (self.stack - 1) * self.stride
        return FrameGeometry(self.stack * self.stride, field, -reach)

    def features(self, samples: Tensor) -> Tensor:
        """Return stacked frames (frame, dim) of one utterance's samples (time,)."""
        spectrum = _power(samples, size=self.size, window=self.window, stride=self.stride)
        static = (_mel(spectrum, self.num_mels, scale="slaney", norm="slaney") + 1e-6).log()
        found = torch.cat([static, _slopes(static, self.slope_window)]).T
        return self._stacked(normalize(found, correction=0, floor=1e-16))

    @property
    def linear_dim(self) -> int:
        """Width of a stacked frame of :meth:`linear`."""
        return self.stack * (self.size // 2 + 1)

    def linear(self, samples: Tensor) -> Tensor:
        """Return what the papers predict: all bins, in decibels, (frame, linear dim)."""
        sharpened = torchaudio.functional.preemphasis(samples, self.preemphasis)
        spectrum = _power(sharpened, size=self.size, window=self.window, stride=self.stride)
        decibels = 10 * spectrum.clamp(min=1e-10).log10() - self.reference_level
        found = (1 - decibels / self.floor_level).clamp(0, 1).T
        return self._stacked(normalize(found, correction=0, floor=1e-16))

    def _stacked(self, frames: Tensor) -> Tensor:
        """Return whole stacks of frames (frame, dim) side by side."""
        whole = len(frames) // self.stack * self.stack
        return frames[:whole].reshape(whole // self.stack, -1)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the stacked frames (batch,), none where there are too few to fit a slope."""
        frames = lengths.div(self.stride, rounding_mode="floor") + 1
        frames = frames.masked_fill(frames < self.slope_window, 0)
        frames = frames.masked_fill(lengths <= self.size // 2, 0)
        return frames.div(self.stack, rounding_mode="floor")


def _power(samples: Tensor, *, size: int, window: int, stride: int) -> Tensor:
    """Return the power spectrum (bin, frame) around every ``stride``-th of samples (time,)."""
    spectrum = torch.stft(
        samples,
        n_fft=size,
        hop_length=stride,
        win_length=window,
        window=torch.hann_window(window, device=samples.device),
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )
    return spectrum.abs().square()


def _mel(
    spectrum: Tensor, num_mels: int, *, scale: Literal["htk", "slaney"], norm: str | None
) -> Tensor:
    """Return mel-filtered powers (mel, frame) of a spectrum (bin, frame)."""
    filters = torchaudio.functional.melscale_fbanks(
        len(spectrum), 0.0, SAMPLE_RATE / 2, num_mels, SAMPLE_RATE, norm, scale
    )
    filtered: Tensor = spectrum.T @ filters.to(spectrum)
    return filtered.T


def _slopes(static: Tensor, window: int) -> Tensor:
    """Return the slope (mel, frame) of a line fitted to ``window`` frames of (mel, frame).

    The first and the last window each give the slopes of all frames beyond their middle.
    """
    reach = window // 2
    steps = static.unfold(1, window, 1)  # (mel, frame, window)
    rise = steps[..., reach + 1 :] - steps[..., :reach].flip(-1)  # zero, to the bit, in silence
    distances = torch.arange(1, reach + 1, device=static.device, dtype=static.dtype)
    fitted = rise @ (distances / (2 * distances.square().sum()))
    return F.pad(fitted[None], (reach, reach), mode="replicate")[0]
