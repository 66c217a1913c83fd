"""HuBERT as it is trained: padding kept out of every layer, spans hidden by a learned vector."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry, conv_geometry, conv_lengths
from auscult.objective import Training

from ..hook import exact_padding
from ..hub import build_model, write_pretrained

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
GEOMETRY: FrameGeometry = conv_geometry(KERNELS, STRIDES)  # 25 ms every 20 ms


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkTraining(Training):
    """A network of HuBERT's kind, group norm in its extractor and post-norm blocks, and its noise.

    The defaults are HuBERT Base's (fairseq, hubert_base_librispeech.yaml).
    """

    layers: int = 12
    width: int = 768
    inner: int = 3072  # of the feed-forward maps
    heads: int = 12
    channels: str = "512"  # of each of the seven convolutions, or of all
    position_kernel: int = 128  # frames that the positional convolution sees
    position_groups: int = 16
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    input_dropout: float = 0.1  # of the projected features
    layerdrop: float = 0.05
    feature_gradient: float = 0.1  # what the extractor's gradients are multiplied by
    feature_penalty: float = 10.0  # weight of the extractor's mean squared output

    may_be_zero: ClassVar[tuple[str, ...]] = (
        *Training.may_be_zero,
        "dropout",
        "attention_dropout",
        "activation_dropout",
        "input_dropout",
        "layerdrop",
        "feature_penalty",
    )

    def __post_init__(self) -> None:
        Training.__post_init__(self)
        for name, parts in (("heads", self.heads), ("position_groups", self.position_groups)):
            if self.width % parts:
                raise UserError(f"{name}={parts}: expected a divisor of width={self.width}.")

    @property
    def convolutions(self) -> tuple[int, ...]:
        """Return the channels of each convolution.

        Raises:
            UserError: ``channels`` is neither one number nor seven with dashes between them.
        """
        parts = self.channels.split("-")
        parts = parts * len(KERNELS) if len(parts) == 1 else parts
        if len(parts) != len(KERNELS) or not all(p.isdecimal() and int(p) for p in parts):
            raise UserError(
                f"channels={self.channels}: expected one number, or seven such as "
                "32-32-48-64-64-96-128."
            )
        return tuple(int(part) for part in parts)


@dataclass(frozen=True, slots=True)
class Encoding:
    """What a pass gives that losses are made of."""

    features: Tensor  # (batch, frame, channel), of the extractor
    last: Tensor  # (batch, frame, dim), of the last block
    valid: Tensor  # (batch, frame) bool, false in padding


class HubertNetwork(nn.Module):
    """transformers' HuBERT with weights from a seed; reads audio as it is, not normalised.

    Args:
        config: Its sizes and noise.
        seed: Of its weights.
        projects_normalized: Whether a layer norm stands before the projection; not in DistilHuBERT.
    """

    def __init__(
        self, config: NetworkTraining, seed: int, *, projects_normalized: bool = True
    ) -> None:
        super().__init__()
        from transformers import HubertConfig

        self.model: Any = build_model(
            HubertConfig(
                num_hidden_layers=config.layers,
                hidden_size=config.width,
                intermediate_size=config.inner,
                num_attention_heads=config.heads,
                conv_dim=config.convolutions,
                conv_kernel=KERNELS,
                conv_stride=STRIDES,
                num_conv_pos_embeddings=config.position_kernel,
                num_conv_pos_embedding_groups=config.position_groups,
                hidden_dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                activation_dropout=config.activation_dropout,
                feat_proj_dropout=config.input_dropout,
                feat_proj_layer_norm=projects_normalized,
            ),
            seed,
        )
        self.model.config.layerdrop = config.layerdrop
        self.feature_gradient = config.feature_gradient

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return conv_lengths(lengths, KERNELS, STRIDES)

    def forward(self, audio: Waveforms, mask: Tensor | None = None) -> Encoding:
        """Encode ``audio``.

        Args:
            audio: Rows that are all long enough for a frame.
            mask: (batch, frame) bool, where the projected features give way to the mask vector.
        """
        frames = self.num_frames(audio.lengths)
        steps = torch.arange(int(frames.max()), device=frames.device)
        valid = steps < frames[:, None]
        padded = not bool(valid.all()) or int(audio.lengths.min()) < audio.samples.shape[1]
        padding: AbstractContextManager[None] = nullcontext()
        if padded:
            padding = exact_padding(
                self.model, audio.lengths, frames, kernels=KERNELS, strides=STRIDES
            )
        with padding:
            features = self._extract(audio.samples)
            hidden = self.model.feature_projection(features)
            if mask is not None:
                vector = self.model.masked_spec_embed.to(hidden.dtype)
                hidden = torch.where(mask[..., None], vector, hidden)
            encoded = self.model.encoder(hidden, attention_mask=valid if padded else None)
        return Encoding(features, encoded.last_hidden_state, valid)

    def _extract(self, samples: Tensor) -> Tensor:
        """Return the features (batch, frame, channel) of ``samples`` (batch, time)."""
        steps = samples[:, None]  # (batch, channel, time)
        for layer in self.model.feature_extractor.conv_layers:
            steps = layer(steps)
        if self.feature_gradient != 1.0 and steps.requires_grad:
            steps.register_hook(lambda gradient: gradient * self.feature_gradient)
        return steps.transpose(1, 2)

    def penalty(self, encoding: Encoding) -> Tensor:
        """Return the sum over valid frames of the features' mean square."""
        return encoding.features[encoding.valid].float().pow(2).mean(-1).sum()

    def save(self, folder: Path) -> Sequence[Path]:
        """Write the encoder as transformers reads it, and return the files; each appears whole."""
        from transformers import Wav2Vec2FeatureExtractor

        self.model.config.architectures = [type(self.model).__name__]
        extractor = Wav2Vec2FeatureExtractor(do_normalize=False)
        return write_pretrained(self.model.state_dict(), self.model.config, extractor, folder)
