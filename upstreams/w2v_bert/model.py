"""w2v-BERT of 2021: the encoder, and beside it what pretraining alone needs.

No code or weights were published; what the paper leaves open is said where it is decided: the
convolutions of the feature encoder (3 x 3, unpadded, ReLU, as conformers have them), the random
vectors at masked frames (standard normal), what the quantiser reads (features after a layer norm
without weights: wav2vec 2.0's has weights, and without any the features shrink under the diversity
loss until all codes are equally likely) and `Dimensions`.

Source: Chung et al., ASRU 2021, arXiv 2108.06209.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from auscult.contracts import AttentionMap
from auscult.frame import conv_lengths
from auscult.upstream import AttentionVisitor

from ..attention import WeightVisitor
from ..shape import SHAPES
from .conformer import ConformerBlock, ConvolutionModule, FeedForward, SelfAttention
from .dimension import KERNEL, STRIDE, Dimensions


class FeatureEncoder(nn.Module):
    """Two strided convolutions over filterbanks: a quarter of the steps.

    They pad nothing, so that a frame sees valid steps only and padding needs no mask.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, KERNEL, STRIDE)
        self.conv2 = nn.Conv2d(channels, channels, KERNEL, STRIDE)

    def forward(self, filterbanks: Tensor) -> Tensor:
        """Map filterbanks (batch, step, filter) to features (batch, frame, feature)."""
        maps = functional.relu(self.conv1(filterbanks[:, None]))
        maps = functional.relu(self.conv2(maps))  # (batch, channel, frame, filter)
        return maps.transpose(1, 2).flatten(2)

    def num_frames(self, steps: Tensor) -> Tensor:
        """Return the frames (batch,) that come of ``steps`` (batch,) filterbanks."""
        return conv_lengths(steps, (KERNEL,) * 2, (STRIDE,) * 2)


class Encoder(nn.Module):
    """The feature encoder, a linear projection, and two stacks of conformer blocks.

    The masked-prediction module continues from what the contrastive module puts out.
    """

    def __init__(
        self,
        feature_encoder: FeatureEncoder,
        projection: nn.Linear,
        contrastive: Sequence[ConformerBlock],
        masked_prediction: Sequence[ConformerBlock],
    ) -> None:
        super().__init__()
        self.feature_encoder = feature_encoder
        self.projection = projection
        self.contrastive = nn.ModuleList(contrastive)
        self.masked_prediction = nn.ModuleList(masked_prediction)

    def forward(
        self,
        features: Tensor,
        lengths: Tensor,
        *,
        mask: Tensor | None = None,
        visit: AttentionVisitor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the first block's input and every block's output, each (batch, frame, dim).

        Args:
            features: (batch, frame, feature), as the feature encoder gives them.
            lengths: (batch,) valid frames.
            mask: (batch, frame), true at frames to replace by random vectors; None for none.
            visit: Takes each block's attention map, first block first; None for no maps.
        """
        if mask is not None:
            features = torch.where(mask[..., None], torch.randn_like(features), features)
        padded = padded_frames(lengths.to(features.device), features.shape[1])
        states = [self.projection(features)]
        for number, block in enumerate((*self.contrastive, *self.masked_prediction), start=1):
            states.append(block(states[-1], padded, _numbered(visit, number, lengths)))
        return tuple(states)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Features as vectors of the codebook."""

    vectors: Tensor  # (batch, frame, code): the codebook's, with gradients in training
    codes: Tensor  # (batch, frame) int64: which they are
    probabilities: Tensor  # (batch, frame, codebook): softmax of the logits, without noise


class GumbelQuantizer(nn.Module):
    """One codebook: Gumbel-softmax, straight through, in training; the likeliest code otherwise.

    Initialised as in wav2vec 2.0, whose quantiser this is with one group.
    """

    def __init__(self, feature_dim: int, codebook: int, code_dim: int) -> None:
        super().__init__()
        self.weight_proj = nn.Linear(feature_dim, codebook)
        self.codevectors = nn.Parameter(torch.empty(codebook, code_dim))
        nn.init.normal_(self.weight_proj.weight)
        nn.init.zeros_(self.weight_proj.bias)
        nn.init.uniform_(self.codevectors)

    def forward(self, features: Tensor, temperature: float = 1.0) -> Quantized:
        """Quantise features (batch, frame, feature); ``temperature`` matters in training alone."""
        logits = self.weight_proj(features).float()
        probabilities = logits.softmax(-1)
        if not self.training:
            codes = logits.argmax(-1)
            return Quantized(self.codevectors[codes], codes, probabilities)
        chosen = functional.gumbel_softmax(logits, tau=temperature, hard=True)
        vectors = chosen.to(self.codevectors.dtype) @ self.codevectors
        return Quantized(vectors, chosen.argmax(-1), probabilities)


class Heads(nn.Module):
    """What the two losses read: context vectors as codes, and logits over the codebook."""

    def __init__(self, dim: int, codebook: int, code_dim: int) -> None:
        super().__init__()
        self.contrastive = nn.Linear(dim, code_dim)
        self.masked_prediction = nn.Linear(dim, codebook)


@dataclass(frozen=True, slots=True)
class Pretraining:
    """What the losses of w2v-BERT are computed from."""

    lengths: Tensor  # (batch,) int64, valid frames
    context: Tensor  # (batch, frame, code): the contrastive module's output, projected
    logits: Tensor  # (batch, frame, codebook): of the masked-prediction module
    targets: Quantized  # of the features before masking


class W2vBert(nn.Module):
    """An encoder with quantiser and prediction heads, as it is pretrained and saved."""

    def __init__(
        self, dimensions: Dimensions, encoder: Encoder, quantizer: GumbelQuantizer, heads: Heads
    ) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.encoder = encoder
        self.quantizer = quantizer
        self.heads = heads

    def forward(
        self, filterbanks: Tensor, steps: Tensor, mask: Tensor, temperature: float = 1.0
    ) -> Pretraining:
        """Predict masked frames from their context; there is no loss here.

        Args:
            filterbanks: (batch, step, filter).
            steps: (batch,) valid steps.
            mask: (batch, frame), true at frames to mask.
            temperature: Of the quantiser's Gumbel-softmax.
        """
        lengths = self.encoder.feature_encoder.num_frames(steps)
        features = self.encoder.feature_encoder(filterbanks)
        states = self.encoder(features, lengths, mask=mask)
        return Pretraining(
            lengths,
            self.heads.contrastive(states[self.dimensions.contrastive_blocks]),
            self.heads.masked_prediction(states[-1]),
            self.quantizer(functional.layer_norm(features, features.shape[-1:]), temperature),
        )


def build_encoder(size: Dimensions, dropout: float = 0.0) -> Encoder:
    """Build the encoder of these dimensions, with random weights and dropout in its blocks."""
    return Encoder(
        FeatureEncoder(size.channels),
        nn.Linear(size.feature_dim, size.dim),
        [build_block(size, dropout) for _ in range(size.contrastive_blocks)],
        [build_block(size, dropout) for _ in range(size.masked_prediction_blocks)],
    )


def build_block(size: Dimensions, dropout: float = 0.0) -> ConformerBlock:
    """Build one conformer block."""
    return ConformerBlock(
        size.dim,
        ffn1=FeedForward(size.dim, size.feed_forward, dropout),
        self_attn=SelfAttention(size.dim, size.heads, dropout),
        conv_module=ConvolutionModule(size.dim, size.conv_kernel, dropout),
        ffn2=FeedForward(size.dim, size.feed_forward, dropout),
    )


def build_w2v_bert(size: Dimensions, dropout: float = 0.0) -> W2vBert:
    """Build a w2v-BERT of these dimensions, with random weights and dropout in its blocks."""
    return W2vBert(
        size,
        build_encoder(size, dropout),
        build_quantizer(size),
        build_heads(size),
    )


def build_quantizer(size: Dimensions) -> GumbelQuantizer:
    """Build the quantiser, with random weights."""
    return GumbelQuantizer(size.feature_dim, size.codebook, size.code_dim)


def build_heads(size: Dimensions) -> Heads:
    """Build the heads, with random weights."""
    return Heads(size.dim, size.codebook, size.code_dim)


def named_dimensions(shape: str) -> Dimensions:
    """Return the dimensions of a named shape of this family, such as w2v_bert_xl."""
    return Dimensions(**SHAPES[shape].settings)


def xl() -> W2vBert:
    """Build w2v-BERT XL: 12 and 12 blocks of 1024."""
    return build_w2v_bert(named_dimensions("w2v_bert_xl"))


def xxl() -> W2vBert:
    """Build w2v-BERT XXL: 12 and 30 blocks of 1024."""
    return build_w2v_bert(named_dimensions("w2v_bert_xxl"))


def padded_frames(lengths: Tensor, frames: int) -> Tensor | None:
    """Return (batch, frame), true after each row's length; None where all rows are full."""
    if bool((lengths == frames).all()):
        return None
    return torch.arange(frames, device=lengths.device) >= lengths[:, None]


def _numbered(visit: AttentionVisitor | None, block: int, lengths: Tensor) -> WeightVisitor | None:
    if visit is None:
        return None
    return lambda weights: visit(AttentionMap(block, weights, lengths))
