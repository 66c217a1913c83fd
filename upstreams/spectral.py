"""Spectral baselines: what a score means without a learned encoder."""

from dataclasses import dataclass
from typing import Literal

import torch
import torchaudio
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.address import Address
from auscult.contracts import SAMPLE_RATE, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry, conv_lengths
from auscult.upstream import Upstream, fingerprint_weights

WINDOW, STRIDE = 400, 160  # samples: 25 ms every 10 ms
DELTA_REACH = 2  # frames on either side of a delta: a window of five


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a spectral baseline is computed."""

    name: str
    kind: Literal["fbank", "mfcc"]
    size: int  # coefficients before deltas
    delta_order: int
    cmvn: bool  # zero mean, unit variance of each coefficient over the utterance

    @property
    def dim(self) -> int:
        """Width of a frame."""
        return self.size * (self.delta_order + 1)

    @property
    def geometry(self) -> FrameGeometry:
        """Where a frame lies: its window and those its deltas reach; CMVN is not counted."""
        reach = self.delta_order * DELTA_REACH * STRIDE
        return FrameGeometry(STRIDE, WINDOW + 2 * reach, -reach)

    def features(self, samples: Tensor) -> Tensor:
        """Return the features (frame, dim) of one utterance's samples (time,).

        Reference: s3prl 0.4.18, upstream/baseline/extracter.py with fbank.yaml and mfcc.yaml.
        """
        waveform = samples[None]
        with torch.autocast(samples.device.type, enabled=False):  # a log-mel wants all its digits
            if self.kind == "fbank":
                static = torchaudio.compliance.kaldi.fbank(
                    waveform, sample_frequency=SAMPLE_RATE, num_mel_bins=self.size
                )
            else:
                static = torchaudio.compliance.kaldi.mfcc(
                    waveform, sample_frequency=SAMPLE_RATE, num_ceps=self.size
                )
            parts = [static.T]  # each (coefficient, frame)
            for _ in range(self.delta_order):
                parts.append(
                    torchaudio.functional.compute_deltas(parts[-1], win_length=2 * DELTA_REACH + 1)
                )
        features = torch.cat([part.T for part in parts], dim=-1)
        return normalize(features) if self.cmvn else features

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,): whole windows, at least two where CMVN needs them."""
        frames = conv_lengths(lengths, (WINDOW,), (STRIDE,))
        return frames.masked_fill(frames < (2 if self.cmvn else 1), 0)


# fbank and mfcc are s3prl's, and with that SUPERB's, baselines of the same names.
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fbank", "fbank", 80, delta_order=2, cmvn=True),
        Recipe("mfcc", "mfcc", 13, delta_order=2, cmvn=True),
        Recipe("log_mel", "fbank", 80, delta_order=0, cmvn=False),
    )
}


class SpectralUpstream(Upstream):
    """Kaldi features of each utterance by itself, as one layer and without weights."""

    def __init__(self, recipe: Recipe, name: str) -> None:
        super().__init__()
        self.recipe = recipe
        self.spec = UpstreamSpec(
            name=name,
            family=recipe.name,
            num_layers=0,
            dim=recipe.dim,
            geometry=recipe.geometry,
            convention="features",
            source="torchaudio.compliance.kaldi",
            sha256=fingerprint_weights({}, [repr(recipe)]),
        )

    def forward(self, audio: Waveforms) -> HiddenStates:
        """Return the features as the only layer, (batch, frame, dim)."""
        frames = self.check_audio(audio)
        rows = [self.recipe.features(row) for row in audio.rows()]
        return HiddenStates((pad_sequence(rows, batch_first=True),), frames)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return self.recipe.num_frames(lengths)


def normalize(frames: Tensor, *, correction: int = 1, floor: float = 1e-10) -> Tensor:
    """Return frames (frame, dim) with zero mean and unit deviation of each dimension.

    A dimension that never changes, as in silence, becomes zero: the mean's rounding error over
    nothing but the floor would be ten thousand.
    """
    moves = (frames != frames[0]).any(0)
    normalized = (frames - frames.mean(0)) / (floor + frames.std(0, correction=correction))
    return normalized.where(moves, 0.0)


def load(address: Address, seed: int) -> Upstream:
    """Build the spectral baseline that ``address`` names.

    Raises:
        UserError: ``random(...)``, or anything after the name.
    """
    if address.random:
        raise UserError(f"{address} has no weights to draw; write {address.family}.")
    if address.checkpoint or address.subnet:
        raise UserError(f"{address} is not known: write {address.family}, with nothing after it.")
    return SpectralUpstream(RECIPES[address.family], str(address))
