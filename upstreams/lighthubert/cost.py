"""What a subnet weighs and what running it costs, from its dimensions alone."""

from functools import partial
from itertools import pairwise

from auscult.cost import (
    Macs,
    attention_macs,
    extractor_macs,
    feed_forward_macs,
    positional_macs,
    superb_macs,
)
from auscult.frame import conv_geometry

from .network import KERNELS, STRIDES
from .space import ExtractorMode, Subnet


def count_parameters(subnet: Subnet, extractor_mode: ExtractorMode) -> int:
    """Count as the reference implementation does: what is sliced at its sliced size.

    The vector of masked frames counts in full, the norms of the positional convolution and the
    pretraining head do not.
    """
    dim, stored = subnet.embed_dim, subnet.stored
    channels = (1, *[stored.channels] * len(KERNELS))
    extractor = sum(
        kernel * wide * channel
        for kernel, (wide, channel) in zip(KERNELS, pairwise(channels), strict=True)
    )
    norms = len(KERNELS) if extractor_mode == "layer_norm" else 1
    extractor += 2 * stored.channels * norms + 2 * stored.channels
    projection = stored.channels * dim + dim
    position = dim * (dim // stored.position_groups) * stored.position_kernel + dim + 2 * dim
    total = stored.width + extractor + projection + position
    for heads, inner in zip(subnet.heads, subnet.ffn_dims, strict=True):
        attention = stored.head_dim * heads
        total += 4 * dim * attention + 3 * attention + dim
        total += 2 * dim * inner + inner + dim
        total += 4 * dim  # two norms
    return total


def count_macs(subnet: Subnet, samples: int) -> Macs:
    """Count multiply-accumulates of encoding one utterance of ``samples``."""
    dim, stored = subnet.embed_dim, subnet.stored
    frames = conv_geometry(KERNELS, STRIDES).unpadded_frames(samples)
    macs = extractor_macs(samples, [stored.channels] * len(KERNELS), KERNELS, STRIDES)
    macs += Macs(frames * stored.channels * dim)
    macs += positional_macs(frames, dim, stored.position_kernel, stored.position_groups)
    for heads, inner in zip(subnet.heads, subnet.ffn_dims, strict=True):
        macs += attention_macs(frames, dim, heads, stored.head_dim * heads)
        macs += feed_forward_macs(frames, dim, inner)
    return macs


def count_superb_macs(subnet: Subnet) -> int:
    """Count what SUPERB counts over its 32 utterances."""
    return superb_macs(partial(count_macs, subnet)).sum.total
