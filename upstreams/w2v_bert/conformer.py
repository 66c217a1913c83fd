"""The conformer block, with padding kept out of whatever looks along time.

Parameter names are those of transformers' Wav2Vec2ConformerEncoderLayer.

Source: Gulati et al., Interspeech 2020, arXiv 2005.08100; without relative positions, as the table
of w2v-BERT says. Dropout, where a builder asks for it, is where Gulati et al. have it: inside each
feed-forward part, on the attention weights, and on what each part adds.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..attention import WeightVisitor, attend


class FeedForward(nn.Module):
    """Two linear maps with swish between them."""

    def __init__(self, dim: int, inner: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.intermediate_dense = nn.Linear(dim, inner)
        self.output_dense = nn.Linear(inner, dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (batch, frame, dim) to the same shape."""
        inner = self.dropout(functional.silu(self.intermediate_dense(hidden)))
        output: Tensor = self.dropout(self.output_dense(inner))
        return output


class SelfAttention(nn.Module):
    """Scaled dot-product attention of several heads, without positions."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, padded: Tensor | None, visit: WeightVisitor | None) -> Tensor:
        """Map (batch, frame, dim) to the same shape.

        Args:
            hidden: (batch, frame, dim).
            padded: (batch, frame), true where there is only padding; None for none.
            visit: Takes the weights (batch, head, frame, frame); None for the fused kernel.
        """
        mixed = attend(
            self.linear_q(hidden),
            self.linear_k(hidden),
            self.linear_v(hidden),
            heads=self.heads,
            keys=None if padded is None else ~padded[:, None, None],
            visit=visit,
            dropout=self.dropout.p if self.training else 0.0,
        )
        output: Tensor = self.dropout(self.linear_out(mixed))
        return output


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch norm whose statistics, in training, are those of valid frames alone."""

    def forward(self, input: Tensor, padded: Tensor | None = None) -> Tensor:
        """Normalise (batch, frame, dim); ``padded`` as in SelfAttention."""
        if padded is None or not self.training:
            flat: Tensor = super().forward(input.flatten(0, 1))
            return flat.view_as(input)
        output = torch.zeros_like(input)
        output[~padded] = super().forward(input[~padded])
        return output


class ConvolutionModule(nn.Module):
    """Pointwise map and gate, depthwise convolution, batch norm, swish, pointwise map."""

    def __init__(self, dim: int, kernel: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.batch_norm = MaskedBatchNorm(dim)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1)

    def forward(self, hidden: Tensor, padded: Tensor | None) -> Tensor:
        """Map (batch, frame, dim) to the same shape; ``padded`` as in SelfAttention."""
        steps = self.pointwise_conv1(self.layer_norm(hidden).transpose(1, 2))
        steps = functional.glu(steps, dim=1)  # (batch, dim, frame)
        if padded is not None:
            steps = steps.masked_fill(padded[:, None], 0.0)  # as the convolution pads its edges
        steps = self.depthwise_conv(steps).transpose(1, 2)
        steps = functional.silu(self.batch_norm(steps, padded)).transpose(1, 2)
        output: Tensor = self.dropout(self.pointwise_conv2(steps).transpose(1, 2))
        return output


class ConformerBlock(nn.Module):
    """Half a feed-forward step, attention, convolution, half a feed-forward step, layer norm."""

    def __init__(
        self,
        dim: int,
        *,
        ffn1: FeedForward,
        self_attn: SelfAttention,
        conv_module: ConvolutionModule,
        ffn2: FeedForward,
    ) -> None:
        super().__init__()
        self.ffn1_layer_norm = nn.LayerNorm(dim)
        self.ffn1 = ffn1
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = self_attn
        self.conv_module = conv_module
        self.ffn2_layer_norm = nn.LayerNorm(dim)
        self.ffn2 = ffn2
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self, hidden: Tensor, padded: Tensor | None = None, visit: WeightVisitor | None = None
    ) -> Tensor:
        """Map (batch, frame, dim) to the same shape; arguments as in SelfAttention."""
        hidden = hidden + 0.5 * self.ffn1(self.ffn1_layer_norm(hidden))
        hidden = hidden + self.self_attn(self.self_attn_layer_norm(hidden), padded, visit)
        hidden = hidden + self.conv_module(hidden, padded)
        hidden = hidden + 0.5 * self.ffn2(self.ffn2_layer_norm(hidden))
        output: Tensor = self.final_layer_norm(hidden)
        return output
