"""LightHuBERT's search spaces: which subnets there are, and which stored weights each one uses.

Source: section 2 of arXiv 2203.15610 and the published supernet configurations.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from auscult.errors import UserError

ExtractorMode = Literal["layer_norm", "group_norm"]


@dataclass(frozen=True, slots=True)
class Dimensions:
    """What a supernet stores, of which every subnet is a slice; as published unless given."""

    width: int = 768  # of the embedding
    ffn: int = 3072
    heads: int = 12
    head_dim: int = 64
    layers: int = 12
    channels: int = 512  # of the convolutional extractor
    position_kernel: int = 128
    position_groups: int = 16
    target_dim: int = 768  # what the pretraining head predicts: the teacher's width


PUBLISHED = Dimensions()
_LEAST_DEPTH = 6  # of the 12 published layers, below which the authors define nothing


@dataclass(frozen=True, slots=True)
class Subnet:
    """One path through the supernet; entries of the tuples are its kept layers, in order."""

    embed_dim: int
    heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]
    stored: Dimensions = PUBLISHED  # of the supernet that it is cut from

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.ffn_dims):
            raise ValueError(
                f"Subnet: expected one head count and one ffn dim a layer, "
                f"got {len(self.heads)} and {len(self.ffn_dims)}."
            )

    @property
    def depth(self) -> int:
        """How many layers are kept."""
        return len(self.heads)

    @property
    def ratios(self) -> tuple[float, ...]:
        """The width of each feed-forward part in multiples of the embedding's."""
        return tuple(width / self.embed_dim for width in self.ffn_dims)

    def __str__(self) -> str:
        """Return the text that an address takes after @."""
        heads, ratios = _join(self.heads), _join(self.ratios)
        return f"embed={self.embed_dim},depth={self.depth},heads={heads},ffn={ratios}"

    def to_dict(self) -> dict[str, Any]:
        """Return the dict that the reference implementation reads."""
        return {
            "atten_dim": [self.stored.head_dim * heads for heads in self.heads],
            "embed_dim": self.embed_dim,
            "ffn_embed": list(self.ffn_dims),
            "heads_num": list(self.heads),
            "layer_num": self.depth,
            "slide_wsz": ["global"] * self.depth,
        }


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """All subnets of a supernet: embedding and depth are chosen once, heads and ratio per layer."""

    name: str
    embed_dims: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    depths: tuple[int, ...]
    default: Subnet
    stored: Dimensions = PUBLISHED

    @property
    def num_subnets(self) -> int:
        """How many different subnets there are."""
        choices = len(self.heads) * len(self.ratios)
        paths: int = sum(choices**depth for depth in self.depths)
        return len(self.embed_dims) * paths

    @property
    def smallest(self) -> Subnet:
        """The least of every dimension."""
        embed_dim, depth, heads = min(self.embed_dims), min(self.depths), min(self.heads)
        return uniform(embed_dim, depth, heads, min(self.ratios), self.stored)

    @property
    def largest(self) -> Subnet:
        """The most of every dimension."""
        embed_dim, depth, heads = max(self.embed_dims), max(self.depths), max(self.heads)
        return uniform(embed_dim, depth, heads, max(self.ratios), self.stored)

    def check(self, subnet: Subnet) -> None:
        """Pass if ``subnet`` lies in this space.

        Raises:
            UserError: It does not; the message names the field and what it may be.
        """
        self.check_size(subnet.embed_dim, subnet.depth)
        widths = [ffn_dim(subnet.embed_dim, ratio) for ratio in self.ratios]
        times = f" ({_one_of(self.ratios)} times embed_dim {subnet.embed_dim})"
        for i, (heads, width) in enumerate(zip(subnet.heads, subnet.ffn_dims, strict=True)):
            self._check(f"heads[{i}]", heads, self.heads)
            self._check(f"ffn[{i}]", width, widths, times)

    def check_size(self, embed_dim: int, depth: int) -> None:
        """Pass if the space has subnets of this width and depth.

        Raises:
            UserError: It has not.
        """
        self._check("embed_dim", embed_dim, self.embed_dims)
        self._check("depth", depth, self.depths)

    def check_ratio(self, field: str, ratio: float) -> None:
        """Pass if feed-forward parts may be ``ratio`` times as wide as the embedding.

        Raises:
            UserError: They may not.
        """
        self._check(field, ratio, self.ratios, " times the embedding")

    def _check(self, field: str, value: float, legal: Sequence[float], remark: str = "") -> None:
        if value not in legal:
            raise UserError(
                f"{field} is {_text(value)}, which the {self.name} space does not have; "
                f"expected {_one_of(legal)}{remark}."
            )

    def sample(self, generator: random.Random | int) -> Subnet:
        """Draw depth and embedding, then each layer's ratio, then each layer's heads, all uniform.

        The reference implementation draws the same subnet after ``random.seed(generator)``.
        """
        if isinstance(generator, int):
            generator = random.Random(generator)
        depth = generator.choice(self.depths)
        embed_dim = generator.choice(self.embed_dims)
        widths = [ffn_dim(embed_dim, generator.choice(self.ratios)) for _ in range(depth)]
        heads = [generator.choice(self.heads) for _ in range(depth)]
        return Subnet(embed_dim, tuple(heads), tuple(widths), self.stored)


def uniform(
    embed_dim: int, depth: int, heads: int, ratio: float, stored: Dimensions = PUBLISHED
) -> Subnet:
    """Return the subnet whose layers are all alike."""
    return Subnet(embed_dim, (heads,) * depth, (ffn_dim(embed_dim, ratio),) * depth, stored)


def whole(stored: Dimensions) -> Subnet:
    """Return the network that uses all of what is stored, which the first stage trains."""
    layers = stored.layers
    return Subnet(stored.width, (stored.heads,) * layers, (stored.ffn,) * layers, stored)


def ffn_dim(embed_dim: int, ratio: float) -> int:
    """Return the width of a feed-forward part from its ratio."""
    return int(ratio * embed_dim)


SMALL = SearchSpace(
    name="small",
    embed_dims=(256, 384, 512),
    heads=(4, 6, 8),
    ratios=(3.0, 3.5, 4.0),
    depths=(10, 11, 12),
    default=uniform(384, 12, 6, 4.0),
)
BASE = SearchSpace(
    name="base",
    embed_dims=(512, 640, 768),
    heads=(8, 10, 12),
    ratios=(3.5, 4.0),
    depths=(12,),
    default=uniform(640, 12, 10, 4.0),
)
SPACES: Mapping[str, SearchSpace] = {space.name: space for space in (SMALL, BASE)}


def kept_layers(depth: int, stored: Dimensions = PUBLISHED) -> tuple[int, ...]:
    """Return which of the stored layers a subnet of ``depth`` layers runs, counted from 0.

    As published for 12 layers, and by the same rule for others: the layers are cut into thirds (the
    last may be short), and of each third the last layer goes first, beginning with the last third;
    then the one before it, and so on.

    Raises:
        UserError: A depth for which nothing is defined.
    """
    legal = range(_LEAST_DEPTH if stored.layers == PUBLISHED.layers else 1, stored.layers + 1)
    if depth not in legal:
        raise UserError(f"depth is {depth}; LightHuBERT defines {_one_of(legal)}.")
    third = -(-stored.layers // 3)
    return tuple(sorted(sorted(range(stored.layers), key=lambda i: (i % third, i))[:depth]))


def ffn_rows(embed_dim: int, ffn_dim: int, stored: Dimensions = PUBLISHED) -> list[tuple[int, int]]:
    """Return the ranges of the stored feed-forward rows that a layer uses, in order.

    They are stored in blocks as wide as the stored embedding: 3072 rows as four blocks of 768. From
    one block after the other come its first ``embed_dim`` rows, until there are ``ffn_dim`` in all.
    """
    if embed_dim == stored.width:
        return [(0, ffn_dim)]
    starts = range(0, stored.ffn, stored.width)
    return [
        (start, start + min(embed_dim, ffn_dim - i * embed_dim))
        for i, start in enumerate(starts)
        if ffn_dim > i * embed_dim
    ]


def _join(values: Sequence[float]) -> str:
    """Return values joined with -, or one where all are equal."""
    shown = values[:1] if len(set(values)) == 1 else values
    return "-".join(map(_text, shown))


def _one_of(values: Sequence[float]) -> str:
    """Return values as a sentence offers them: 4, 6 or 8."""
    *most, last = map(_text, values)
    return f"{', '.join(most)} or {last}" if most else last


def _text(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
