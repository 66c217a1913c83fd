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

from .network import CHANNELS, KERNELS, POSITION_GROUPS, POSITION_KERNEL, STRIDES
from .space import HEAD_DIM, STORED_WIDTH, ExtractorMode, Subnet


def count_parameters(subnet: Subnet, extractor_mode: ExtractorMode) -> int:
    """Count as the reference implementation does: what is sliced at its sliced size.

    The vector of masked frames counts in full, the norms of the positional convolution and the
    pretraining head do not.
    """
    dim = subnet.embed_dim
    channels = (1, *[CHANNELS] * len(KERNELS))
    extractor = sum(
        kernel * wide * channel
        for kernel, (wide, channel) in zip(KERNELS, pairwise(channels), strict=True)
    )
    norms = len(KERNELS) if extractor_mode == "layer_norm" else 1
    extractor += 2 * CHANNELS * norms + 2 * CHANNELS
    projection = CHANNELS * dim + dim
    position = dim * (dim // POSITION_GROUPS) * POSITION_KERNEL + dim + 2 * dim
    total = STORED_WIDTH + extractor + projection + position
    for heads, inner in zip(subnet.heads, subnet.ffn_dims, strict=True):
        attention = HEAD_DIM * heads
        total += 4 * dim * attention + 3 * attention + dim
        total += 2 * dim * inner + inner + dim
        total += 4 * dim  # two norms
    return total


def count_macs(subnet: Subnet, samples: int) -> Macs:
    """Count multiply-accumulates of encoding one utterance of ``samples``."""
    dim = subnet.embed_dim
    frames = conv_geometry(KERNELS, STRIDES).unpadded_frames(samples)
    macs = extractor_macs(samples, [CHANNELS] * len(KERNELS), KERNELS, STRIDES)
    macs += Macs(frames * CHANNELS * dim)
    macs += positional_macs(frames, dim, POSITION_KERNEL, POSITION_GROUPS)
    for heads, inner in zip(subnet.heads, subnet.ffn_dims, strict=True):
        macs += attention_macs(frames, dim, heads, HEAD_DIM * heads)
        macs += feed_forward_macs(frames, dim, inner)
    return macs


def count_superb_macs(subnet: Subnet) -> int:
    """Count what SUPERB counts over its 32 utterances."""
    return superb_macs(partial(count_macs, subnet)).sum.total
