"""LightHuBERT's search spaces: which subnets there are, and which stored weights each one uses.

Source: section 2 of arXiv 2203.15610 and the published supernet configurations.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from auscult.errors import UserError

ExtractorMode = Literal["layer_norm", "group_norm"]

HEAD_DIM = 64
STORED_WIDTH = 768
STORED_FFN = 3072
STORED_LAYERS = 12

_DROPPED: Mapping[int, set[int]] = {
    12: set(),
    11: {11},
    10: {7, 11},
    9: {3, 7, 11},
    8: {3, 7, 10, 11},
    7: {3, 6, 7, 10, 11},
    6: {2, 3, 6, 7, 10, 11},
}


@dataclass(frozen=True, slots=True)
class Subnet:
    """One path through the supernet; entries of the tuples are its kept layers, in order."""

    embed_dim: int
    heads: tuple[int, ...]
    ffn_dims: tuple[int, ...]

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
            "atten_dim": [HEAD_DIM * heads for heads in self.heads],
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

    @property
    def num_subnets(self) -> int:
        """How many different subnets there are."""
        choices = len(self.heads) * len(self.ratios)
        paths: int = sum(choices**depth for depth in self.depths)
        return len(self.embed_dims) * paths

    @property
    def smallest(self) -> Subnet:
        """The least of every dimension."""
        return uniform(min(self.embed_dims), min(self.depths), min(self.heads), min(self.ratios))

    @property
    def largest(self) -> Subnet:
        """The most of every dimension."""
        return uniform(max(self.embed_dims), max(self.depths), max(self.heads), max(self.ratios))

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
        return Subnet(embed_dim, tuple(heads), tuple(widths))


def uniform(embed_dim: int, depth: int, heads: int, ratio: float) -> Subnet:
    """Return the subnet whose layers are all alike."""
    return Subnet(embed_dim, (heads,) * depth, (ffn_dim(embed_dim, ratio),) * depth)


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


def kept_layers(depth: int) -> tuple[int, ...]:
    """Return which of the 12 stored layers a subnet of ``depth`` layers runs, counted from 0.

    Raises:
        UserError: A depth for which nothing is defined.
    """
    if depth not in _DROPPED:
        raise UserError(f"depth is {depth}; LightHuBERT defines {_one_of(sorted(_DROPPED))}.")
    return tuple(i for i in range(STORED_LAYERS) if i not in _DROPPED[depth])


def ffn_rows(embed_dim: int, ffn_dim: int) -> list[tuple[int, int]]:
    """Return the ranges of the 3072 stored feed-forward rows that a layer uses, in order.

    They are stored as four blocks of 768. From one block after the other come its first
    ``embed_dim`` rows, until there are ``ffn_dim`` in all.
    """
    if embed_dim == STORED_WIDTH:
        return [(0, ffn_dim)]
    starts = range(0, STORED_FFN, STORED_WIDTH)
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
