"""What a transformers speech encoder reads of an utterance, and how many frames come of it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from auscult.contracts import SAMPLE_RATE
from auscult.frame import FrameGeometry, conv_geometry, conv_lengths

STACKED = 2  # filterbank frames that w2v-BERT 2.0 reads as one
EPSILON = 1e-7  # what transformers adds to an utterance's variance; fairseq and torchaudio add 1e-5


class FrontEnd(Protocol):
    """From the samples of one utterance to the encoder's input."""

    @property
    def kernels(self) -> tuple[int, ...]:
        """Kernel sizes of the convolutions inside the model; empty without any."""
        ...

    @property
    def strides(self) -> tuple[int, ...]:
        """Strides of the convolutions inside the model."""
        ...

    @property
    def geometry(self) -> FrameGeometry:
        """Where a frame lies in the audio."""
        ...

    def prepare(self, samples: Tensor) -> Tensor:
        """Return the input for one utterance's samples (time,), its first axis in time order."""
        ...

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        ...


@dataclass(frozen=True)
class WaveformFrontEnd:
    """Samples, normalised over the utterance where the encoder asks for it."""

    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    normalize: bool
    epsilon: float = EPSILON

    @property
    def geometry(self) -> FrameGeometry:
        """Where a frame lies in the audio."""
        return conv_geometry(self.kernels, self.strides)

    def prepare(self, samples: Tensor) -> Tensor:
        """Return the samples (time,), at zero mean and unit variance where asked for."""
        if not self.normalize:
            return samples
        variance, mean = torch.var_mean(samples, correction=0)
        return (samples - mean) / torch.sqrt(variance + self.epsilon)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return conv_lengths(lengths, self.kernels, self.strides)


@dataclass(frozen=True)
class FilterbankFrontEnd:
    """w2v-BERT 2.0's input: log-mel filters every 10 ms, stacked in pairs.

    An odd last filterbank frame is dropped: the published extractor masks the pair it begins.
    """

    normalize: bool
    num_filters: int = 80
    kernels: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    geometry: FrameGeometry = FrameGeometry(stride=320, receptive_field=560)

    @cached_property
    def _extractor(self) -> Any:
        from transformers import SeamlessM4TFeatureExtractor

        return SeamlessM4TFeatureExtractor(self.num_filters, num_mel_bins=self.num_filters)

    def prepare(self, samples: Tensor) -> Tensor:
        """Return stacked filterbanks (frame, dim)."""
        features = self._extractor(
            samples.cpu().numpy(),
            sampling_rate=SAMPLE_RATE,
            padding=False,
            pad_to_multiple_of=None,
            do_normalize_per_mel_bins=self.normalize,
        )
        return torch.as_tensor(features["input_features"][0], dtype=torch.float32)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return conv_lengths(lengths, (400, STACKED), (160, STACKED))


def front_end_of(config: Any, normalize: bool, epsilon: float = EPSILON) -> FrontEnd:
    """Return the front end of the encoder that a transformers configuration describes."""
    if config.model_type == "wav2vec2-bert":
        return FilterbankFrontEnd(normalize, config.feature_projection_input_dim // STACKED)
    kernels, strides = tuple(config.conv_kernel), tuple(config.conv_stride)
    return WaveformFrontEnd(kernels, strides, normalize, epsilon)
