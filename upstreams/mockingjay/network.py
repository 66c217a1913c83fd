"""The one encoder of both families: BERT's blocks, which Audio ALBERT shares among its layers.

Names of weights are those of the published checkpoints.

Source: Liu et al., ICASSP 2020, arXiv 1910.12638; Chi et al., SLT 2021, arXiv 2005.08575.
Reference: s3prl 0.4.18, upstream/mockingjay/model.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auscult.seed import seeded

from ..attention import WeightVisitor, attend

INITIAL_STD = 0.02
LEAST_NEARBY = 24  # columns of a head; of fewer, frames far away look near
_SLOWEST = 0.056  # of a state's columns: there a position turns by 0.36 radians a frame
LayerVisitor = Callable[[int, Tensor], None]  # takes the block and (batch, head, frame, frame)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """Sizes of an encoder; the defaults are those of every published one."""

    input_dim: int
    num_layers: int
    share: bool  # one block, applied at every layer
    dim: int = 768
    heads: int = 12
    inner: int = 3072
    eps: float = 1e-12  # of layer norms
    dropout: float = field(default=0.0, repr=False, compare=False)  # in training; of no encoder
    initial_std: float = field(default=INITIAL_STD, repr=False, compare=False)  # of weight matrices
    begins_nearby: bool = field(default=False, repr=False, compare=False)  # see `attend_nearby`


class Mockingjay(nn.Module):
    """A projection, sines and cosines for positions, layer norm, then the blocks."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.dimensions = dimensions
        self.input_representations = InputRepresentations(dimensions)
        self.encoder = Encoder(dimensions)

    def forward(
        self, features: Tensor, keys: Tensor | None = None, visit: LayerVisitor | None = None
    ) -> list[Tensor]:
        """Return the input of the first block and the output of each layer.

        Args:
            features: (batch, frame, input dim).
            keys: (batch, 1, 1, frame), the valid frames; None where all are.
            visit: Takes each layer's attention weights, first layer first.

        Returns:
            One more than there are layers, each (batch, frame, dim).
        """
        embedded: Tensor = self.input_representations(features)
        return [embedded, *self.encoder(embedded, keys, visit)]


class InputRepresentations(nn.Module):
    """Features as the first block reads them."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.spec_transform = nn.Linear(dimensions.input_dim, dimensions.dim)
        self.LayerNorm = nn.LayerNorm(dimensions.dim, dimensions.eps)
        self.dropout = nn.Dropout(dimensions.dropout)

    def forward(self, features: Tensor) -> Tensor:
        """Map (batch, frame, input dim) to (batch, frame, dim)."""
        projected = self.spec_transform(features)
        num_frames, dim = projected.shape[-2:]
        table = _kept_sinusoids(1 << num_frames.bit_length(), dim, projected.device)[:num_frames]
        embedded: Tensor = self.dropout(self.LayerNorm(projected + table.to(projected)))
        return embedded


@lru_cache(maxsize=2)
def _kept_sinusoids(num_frames: int, dim: int, device: torch.device) -> Tensor:
    """Keep the table on the device; made in float64, which not every device has."""
    with torch.inference_mode(False), torch.device("cpu"):  # a later pass may want gradients
        return sinusoids(num_frames, dim).to(device)


def sinusoids(num_frames: int, dim: int) -> Tensor:
    """Return the position table (frame, dim): sines in even columns, cosines in odd ones."""
    column = torch.arange(dim, dtype=torch.float64)
    position = torch.arange(num_frames, dtype=torch.float64)[:, None]
    angle = position / 10_000 ** (2 * column.div(2, rounding_mode="floor") / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class Encoder(nn.Module):
    """The blocks; where they share their weights there is one, applied again and again."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.applications = dimensions.num_layers if dimensions.share else 1
        blocks = 1 if dimensions.share else dimensions.num_layers
        self.layer = nn.ModuleList(Block(dimensions) for _ in range(blocks))

    def forward(self, x: Tensor, keys: Tensor | None, visit: LayerVisitor | None) -> list[Tensor]:
        """Return the output of each layer, (batch, frame, dim); arguments as in Mockingjay."""
        states = []
        for number, block in enumerate(list(self.layer) * self.applications, start=1):
            x = block(x, keys, _hand_over(number, visit))
            states.append(x)
        return states


def _hand_over(block: int, visit: LayerVisitor | None) -> WeightVisitor | None:
    return None if visit is None else lambda weights: visit(block, weights)


class Block(nn.Module):
    """Self-attention and a feed-forward part, each followed by its residual and layer norm."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        dim, inner = dimensions.dim, dimensions.inner
        self.attention = Attention(dimensions)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(dim, inner)})
        self.output = Residual(inner, dimensions)

    def forward(self, x: Tensor, keys: Tensor | None, visit: WeightVisitor | None) -> Tensor:
        """Return ``x`` (batch, frame, dim) after the block."""
        x = self.attention(x, keys, visit)
        output: Tensor = self.output(F.gelu(self.intermediate["dense"](x)), x)
        return output


class Attention(nn.Module):
    """Self-attention, its residual and layer norm."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        self.self = SelfAttention(dimensions)
        self.output = Residual(dimensions.dim, dimensions)

    def forward(self, x: Tensor, keys: Tensor | None, visit: WeightVisitor | None) -> Tensor:
        """Return ``x`` (batch, frame, dim) after attention."""
        output: Tensor = self.output(self.self(x, keys, visit), x)
        return output


class Residual(nn.Module):
    """A linear map, added to what went around it, then layer norm."""

    def __init__(self, inner: int, dimensions: Dimensions) -> None:
        super().__init__()
        self.dense = nn.Linear(inner, dimensions.dim)
        self.dropout = nn.Dropout(dimensions.dropout)
        self.LayerNorm = nn.LayerNorm(dimensions.dim, dimensions.eps)

    def forward(self, mapped: Tensor, around: Tensor) -> Tensor:
        """Return (batch, frame, dim) of ``mapped`` (batch, frame, inner) and ``around``."""
        output: Tensor = self.LayerNorm(self.dropout(self.dense(mapped)) + around)
        return output


class SelfAttention(nn.Module):
    """Scaled dot-product attention of several heads, before their outputs are mixed."""

    def __init__(self, dimensions: Dimensions) -> None:
        super().__init__()
        dim = dimensions.dim
        self.heads = dimensions.heads
        self.dropout = dimensions.dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, x: Tensor, keys: Tensor | None, visit: WeightVisitor | None) -> Tensor:
        """Attend over the frames of ``x`` (batch, frame, dim).

        Args:
            x: (batch, frame, dim).
            keys: (batch, 1, 1, frame), the valid frames; None where all are.
            visit: Takes the weights (batch, head, frame, frame); None for torch's fused kernel.
        """
        return attend(
            self.query(x),
            self.key(x),
            self.value(x),
            heads=self.heads,
            keys=keys,
            visit=visit,
            dropout=self.dropout if self.training else 0.0,
        )


def valid_keys(lengths: Tensor) -> Tensor | None:
    """Return the valid frames (batch, 1, 1, frame) of rows of ``lengths``; None where all are."""
    longest = int(lengths.max())
    if bool((lengths == longest).all()):
        return None
    return (torch.arange(longest, device=lengths.device) < lengths[:, None])[:, None, None]


class SpecHead(nn.Module):
    """What pretraining predicts the masked frames with; no encoder needs it."""

    def __init__(self, target_dim: int, dim: int = 768, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.LayerNorm = nn.LayerNorm(dim, eps)
        self.output = nn.Linear(dim, target_dim)

    def forward(self, state: Tensor) -> Tensor:
        """Map the last hidden state (batch, frame, dim) to (batch, frame, target dim)."""
        output: Tensor = self.output(self.LayerNorm(F.gelu(self.dense(state))))
        return output


def draw_mockingjay(dimensions: Dimensions, seed: int) -> Mockingjay:
    """Return an encoder as pretraining begins, its weights a function of shape and ``seed``."""
    return draw_with_head(dimensions, seed, target_dim=1)[0]


def draw_with_head(
    dimensions: Dimensions, seed: int, target_dim: int
) -> tuple[Mockingjay, SpecHead]:
    """Return the encoder that `draw_mockingjay` does, and a head, drawn after it."""
    with torch.device("meta"):
        network = Mockingjay(dimensions)
        head = SpecHead(target_dim, dimensions.dim, dimensions.eps)
    with seeded(seed), torch.no_grad():
        for part in (network, head):
            part.to_empty(device=torch.get_default_device())
            for module in part.modules():
                _initialize(module, dimensions.initial_std)
            if part is network and dimensions.begins_nearby:
                attend_nearby(network)
    return network, head


@torch.no_grad()
def attend_nearby(network: Mockingjay) -> None:
    """Let each head begin by attending to one frame nearby: the one before, the next, two before...

    Half as many columns of every state as a head has begin with sines and cosines of the position
    alone. Keys are these; queries are these turned to the position that the head attends to, where
    their product is largest: in an encoder of four heads and 160 columns half of the weight is
    there and a seventh on either side, in the first layer. It fades with depth, as layer norms
    leave less of the positions. All of it is learned further.

    An untrained transformer attends to everything alike, and takes many updates to learn which
    frames are near. Weights that begin otherwise: Trockman and Kolter, ICML 2023, arXiv 2305.09828.
    """
    heads, dim = network.dimensions.heads, network.dimensions.dim
    width = dim // heads
    count = max(width // 4, 1)
    # from 1 radian a frame to about a third, so that frames far away do not look near
    pairs = torch.linspace(0, max(count - 1, dim * _SLOWEST), count).round().long()
    columns = torch.stack([2 * pairs, 2 * pairs + 1], dim=1).flatten()
    speeds = 10_000 ** (-2 * pairs / dim)
    sharpness = (2 * width**0.5 / (1 - speeds.cos()).sum()).sqrt()
    network.input_representations.spec_transform.weight[columns] = 0.0
    for block in network.encoder.layer:
        assert isinstance(block, Block)
        for residual in (block.attention.output, block.output):
            residual.dense.weight[columns] = 0.0
        query, key = block.attention.self.query.weight, block.attention.self.key.weight
        for weight in (query, key):
            nn.init.normal_(weight, std=INITIAL_STD)
        for head in range(heads):
            away = (head // 2 + 1) * (1 if head % 2 else -1)
            rows = (head * width + torch.arange(2 * count))[:, None]
            query[rows, columns] += sharpness * _turned(speeds * away)
            key[rows, columns] += sharpness * torch.eye(2 * count)


def _turned(angles: Tensor) -> Tensor:
    """Return the matrix (2 angle, 2 angle) that turns pairs of sine and cosine by ``angles``."""
    sines, cosines = angles.sin(), angles.cos()
    each = torch.stack([cosines, sines, -sines, cosines], dim=1).reshape(-1, 2, 2)
    turned: Tensor = torch.block_diag(*each)
    return turned


def _initialize(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=std)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
