"""LightHuBERT of any dimensions: the one forward pass of supernet, subnet and exported network.

Names of weights are those of the published checkpoints, except that the positional convolution
holds the weight itself instead of its norm and direction.

Reference: LightHuBERT (arXiv 2203.15610), mechanicalsea/lighthubert.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auscult.contracts import AttentionMap
from auscult.frame import conv_lengths
from auscult.upstream import AttentionVisitor

from ..attention import WeightVisitor, attend
from .space import ExtractorMode, Subnet

KERNELS = (10, 3, 3, 3, 3, 2, 2)
STRIDES = (5, 2, 2, 2, 2, 2, 2)
DROPOUT = 0.1


class LightHubert(nn.Module):
    """A convolutional extractor under post-norm blocks, each with its own heads and width.

    The vector that stands for masked frames keeps the supernet's width in every subnet: the
    published parameter counts include it in full.
    """

    def __init__(
        self, subnet: Subnet, mode: ExtractorMode = "layer_norm", dropout: float = DROPOUT
    ) -> None:
        super().__init__()
        self.subnet = subnet
        self.mode: ExtractorMode = mode
        channels = subnet.stored.channels
        self.mask_emb = nn.Parameter(torch.empty(subnet.stored.width))
        self.feature_extractor = Extractor(channels, mode)
        self.layer_norm = nn.LayerNorm(channels)
        self.post_extract_proj = nn.Linear(channels, subnet.embed_dim)
        self.encoder = Encoder(subnet, dropout)

    def forward(
        self,
        samples: Tensor,
        lengths: Tensor,
        masked: Tensor | None = None,
        visit: AttentionVisitor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the projected convolutions and the output of every block.

        Args:
            samples: (batch, time) waveforms, normalised where the extractor has layer norm.
            lengths: (batch,) valid samples.
            masked: (batch, frame), where frames are hidden from the blocks; for pretraining.
            visit: Takes each block's attention map, first block first.

        Returns:
            One more than there are blocks, each (batch, frame, dim).
        """
        features = self.layer_norm(self.feature_extractor(samples, lengths))
        projected = self.post_extract_proj(features)
        x = projected
        if masked is not None:
            x = torch.where(masked[..., None], self.mask_emb[: self.subnet.embed_dim], x)
        return projected, *self.encoder(x, num_frames(lengths), visit)


def num_frames(lengths: Tensor) -> Tensor:
    """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
    return conv_lengths(lengths, KERNELS, STRIDES)


class Extractor(nn.Module):
    """Seven convolutions from samples to frames of 20 ms.

    Channels stay the last axis throughout, so that norms and windows find them side by side.
    """

    def __init__(self, channels: int, mode: ExtractorMode) -> None:
        super().__init__()
        self.conv_layers = nn.ModuleList()
        for depth, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True)):
            convolution = nn.Conv1d(channels if depth else 1, channels, kernel, stride, bias=False)
            norm: nn.Module | None = _ChannelNorm(channels)
            if mode == "group_norm":
                norm = None if depth else _TimeNorm(channels)
            self.conv_layers.append(_ConvLayer(convolution, norm))

    def forward(self, samples: Tensor, lengths: Tensor) -> Tensor:
        """Return features (batch, frame, channel) of ``samples`` (batch, time)."""
        x = samples[..., None]
        for layer, kernel, stride in zip(self.conv_layers, KERNELS, STRIDES, strict=True):
            lengths = conv_lengths(lengths, (kernel,), (stride,))
            x = layer(x, lengths)
        return x


class _ConvLayer(nn.ModuleDict):
    """A convolution, what norm follows it, and GELU; fairseq has a dropout of zero between."""

    def __init__(self, convolution: nn.Conv1d, norm: nn.Module | None) -> None:
        super().__init__({"0": convolution} if norm is None else {"0": convolution, "2": norm})
        (self.kernel,), (self.stride,) = convolution.kernel_size, convolution.stride

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        # One matrix product over windows: a third faster than a convolution, which wants channels
        # apart, between norms that want them together.
        windows = x.unfold(1, self.kernel, self.stride).mT.flatten(2)  # (batch, frame, tap * dim)
        x = F.linear(windows, self.get_parameter("0.weight").mT.flatten(1))
        if "2" in self:
            x = self["2"](x, lengths)
        return F.gelu(x)


class _ChannelNorm(nn.ModuleDict):
    """Layer norm over the channels of each step, which fairseq has between two transposes."""

    def __init__(self, channels: int) -> None:
        super().__init__({"1": nn.LayerNorm(channels)})

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        normed: Tensor = self["1"](x)
        return normed


class _TimeNorm(nn.GroupNorm):
    """Norm of each channel over the valid steps of each row, so that padding does not count."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:  # type: ignore[override]
        steps = x.shape[1]
        if bool((lengths == steps).all()):
            return super().forward(x.mT).mT
        rows = []
        for row, valid in enumerate(lengths.tolist()):
            alone = super().forward(x[row : row + 1, :valid].mT).mT
            rows.append(F.pad(alone, (0, 0, 0, steps - valid)))
        return torch.cat(rows)


class Encoder(nn.Module):
    """Positions by a grouped convolution, then the blocks."""

    def __init__(self, subnet: Subnet, dropout: float = DROPOUT) -> None:
        super().__init__()
        dim, kernel = subnet.embed_dim, subnet.stored.position_kernel
        groups = subnet.stored.position_groups
        position = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.pos_conv = nn.ModuleList([position])
        self.layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            Block(dim, heads, subnet.stored.head_dim, inner, dropout)
            for heads, inner in zip(subnet.heads, subnet.ffn_dims, strict=True)
        )

    def forward(
        self, x: Tensor, frames: Tensor, visit: AttentionVisitor | None = None
    ) -> list[Tensor]:
        """Return the output of each block, (batch, frame, dim), of which ``frames`` are valid."""
        keys: Tensor | None = None
        if bool((frames < x.shape[1]).any()):
            valid = torch.arange(x.shape[1], device=x.device) < frames.to(x.device)[:, None]
            x = x.masked_fill(~valid[..., None], 0.0)
            keys = valid[:, None, None]
        # an even kernel, centred, makes one frame too many
        x = x + F.gelu(self.pos_conv[0](x.mT)[..., :-1]).mT
        x = self.dropout(self.layer_norm(x))
        states = []
        for number, block in enumerate(self.layers, start=1):
            x = block(x, keys, _hand_over(number, frames, visit))
            states.append(x)
        return states


def _hand_over(block: int, frames: Tensor, visit: AttentionVisitor | None) -> WeightVisitor | None:
    if visit is None:
        return None
    return lambda weights: visit(AttentionMap(block, weights, frames))


class Block(nn.Module):
    """Self-attention and a feed-forward part, each followed by its residual and layer norm."""

    def __init__(self, dim: int, heads: int, head_dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(dim, heads, head_dim)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, inner)
        self.fc2 = nn.Linear(inner, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, keys: Tensor | None, visit: WeightVisitor | None) -> Tensor:
        """Return ``x`` (batch, frame, dim) after the block."""
        x = self.self_attn_layer_norm(x + self.dropout(self.self_attn(x, keys, visit)))
        x = self.final_layer_norm(x + self.dropout(self.fc2(F.gelu(self.fc1(x)))))
        return x


class SelfAttention(nn.Module):
    """Heads of one width, together as wide as they are many: narrower or wider than the blocks."""

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(dim, inner)
        self.v_proj = nn.Linear(dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(
        self,
        x: Tensor,
        keys: Tensor | None = None,
        visit: WeightVisitor | None = None,
    ) -> Tensor:
        """Attend over the frames of ``x`` (batch, frame, dim).

        Args:
            x: (batch, frame, dim).
            keys: (batch, 1, 1, frame), the valid frames; None where all are.
            visit: Takes the weights (batch, head, frame, frame); None for torch's fused kernel.
        """
        mixed = attend(
            self.q_proj(x), self.k_proj(x), self.v_proj(x), heads=self.heads, keys=keys, visit=visit
        )
        attended: Tensor = self.out_proj(mixed)
        return attended
