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
    """Kaldi features of each utterance by itself, as one layer and without weights.

    A frame's receptive field counts its window and the windows its deltas reach; the utterance-wide
    mean and variance are not counted.
    """

    def __init__(self, recipe: Recipe, name: str) -> None:
        super().__init__()
        self.recipe = recipe
        reach = recipe.delta_order * DELTA_REACH * STRIDE
        self.spec = UpstreamSpec(
            name=name,
            family=recipe.name,
            num_layers=0,
            dim=recipe.size * (recipe.delta_order + 1),
            geometry=FrameGeometry(STRIDE, WINDOW + 2 * reach, -reach),
            convention="features",
            source="torchaudio.compliance.kaldi",
            sha256=fingerprint_weights({}, [repr(recipe)]),
        )

    def forward(self, audio: Waveforms) -> HiddenStates:
        """Return the features as the only layer, (batch, frame, dim)."""
        frames = self.check_audio(audio)
        rows = [compute_features(self.recipe, row) for row in audio.rows()]
        return HiddenStates((pad_sequence(rows, batch_first=True),), frames)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,): whole windows, at least two where CMVN needs them."""
        frames = conv_lengths(lengths, (WINDOW,), (STRIDE,))
        least = 2 if self.recipe.cmvn else 1
        return frames.masked_fill(frames < least, 0)


def compute_features(recipe: Recipe, samples: Tensor) -> Tensor:
    """Return the features (frame, dim) of one utterance's samples (time,).

    Reference: s3prl 0.4.18, upstream/baseline/extracter.py with fbank.yaml and mfcc.yaml.
    """
    waveform = samples[None]
    if recipe.kind == "fbank":
        static = torchaudio.compliance.kaldi.fbank(
            waveform, sample_frequency=SAMPLE_RATE, num_mel_bins=recipe.size
        )
    else:
        static = torchaudio.compliance.kaldi.mfcc(
            waveform, sample_frequency=SAMPLE_RATE, num_ceps=recipe.size
        )
    parts = [static.T]  # each (coefficient, frame)
    for _ in range(recipe.delta_order):
        parts.append(
            torchaudio.functional.compute_deltas(parts[-1], win_length=2 * DELTA_REACH + 1)
        )
    features = torch.cat([part.T for part in parts], dim=-1)
    if recipe.cmvn:
        features = (features - features.mean(0)) / (1e-10 + features.std(0))
    return features


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
