"""What encoding costs, from an encoder's dimensions alone: multiply-accumulates as SUPERB counts.

SUPERB's challenge of SLT 2022 profiled encoders over 32 utterances of LibriSpeech test-clean, one
at a time, and published the sum. Its profiler counts convolutions and matrix products, and inside
fairseq's attention also biases, the scaling of queries, mask, softmax and dropout; norms,
activations and filterbanks are free. Here every encoder is counted by that one rule, so that
numbers compare. A published number differs by some tenths of a percent where the profiler met an
attention that it did not know, or one without dropout, such as HuBERT Large's.

Source: branch superb-challenge of B06901052/DeepSpeed and the policy page of the leaderboard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

BUCKETS = ("short", "medium", "long", "longer")
SUPERB_LENGTHS = (
    (20560, 34560, 38480, 42560, 45600, 48720, 52000, 55120),
    (59120, 62720, 66400, 71200, 75200, 78640, 82800, 87520),
    (92720, 98560, 104400, 111120, 118480, 125040, 132720, 142640),
    (154000, 166720, 180880, 197920, 217920, 239280, 268160, 326000),
)  # samples at 16 kHz of the utterances in each bucket
SUPERB_SECONDS = tuple(sum(row) / 16_000 for row in SUPERB_LENGTHS)  # 224.86 s in all


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates: of convolutions and matrix products, and what SUPERB adds to them."""

    products: int
    extras: int = 0

    @property
    def total(self) -> int:
        """What SUPERB counts."""
        return self.products + self.extras

    def __add__(self, other: "Macs") -> "Macs":
        return Macs(self.products + other.products, self.extras + other.extras)

    def __mul__(self, times: int) -> "Macs":
        return Macs(self.products * times, self.extras * times)


@dataclass(frozen=True, slots=True)
class SuperbMacs:
    """The cost of SUPERB's 32 utterances."""

    buckets: tuple[Macs, ...]  # one for each of BUCKETS

    @property
    def sum(self) -> Macs:
        """All 32 utterances."""
        return sum(self.buckets, Macs(0))


def superb_macs(count: Callable[[int], Macs]) -> SuperbMacs:
    """Sum what ``count`` says of one utterance's samples over SUPERB's utterances."""
    return SuperbMacs(
        tuple(sum((count(samples) for samples in row), Macs(0)) for row in SUPERB_LENGTHS)
    )


def extractor_macs(
    samples: int, channels: Sequence[int], kernels: Sequence[int], strides: Sequence[int]
) -> Macs:
    """Count a stack of unpadded one-dimensional convolutions over mono audio, first layer first."""
    steps, wide, products = samples, 1, 0
    for channel, kernel, stride in zip(channels, kernels, strides, strict=True):
        steps = max((steps - kernel) // stride + 1, 0)
        products += steps * kernel * wide * channel
        wide = channel
    return Macs(products)


def positional_macs(frames: int, dim: int, kernel: int, groups: int) -> Macs:
    """Count a grouped convolution that keeps ``dim``; an even kernel makes one frame too many."""
    steps = frames + (kernel % 2 == 0)
    return Macs(steps * kernel * dim * (dim // groups))


def attention_macs(frames: int, dim: int, heads: int, inner: int) -> Macs:
    """Count one block's attention over ``frames``, its heads together ``inner`` wide."""
    products = 4 * frames * dim * inner + 2 * frames**2 * inner
    # biases of q, k and v, the scaling of q; mask, softmax (twice) and dropout of the weights
    extras = 4 * frames * inner + 4 * frames**2 * heads
    return Macs(products, extras)


def feed_forward_macs(frames: int, dim: int, inner: int) -> Macs:
    """Count one block's feed-forward part, ``inner`` wide."""
    return Macs(2 * frames * dim * inner)
