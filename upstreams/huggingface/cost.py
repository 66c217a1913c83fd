"""What transformers' speech encoders cost, from a configuration and a number of frames alone.

Two things that are in a configuration cost nothing: the positional convolution that transformers'
Wav2Vec2-Conformer has and never applies, and the sines and cosines that relative and rotary
positions begin with.
"""

from typing import Any

from auscult.cost import (
    Macs,
    attention_macs,
    extractor_macs,
    feed_forward_macs,
    positional_macs,
)

_CONFORMERS = ("wav2vec2-bert", "wav2vec2-conformer")
_GATE_OUTPUTS = 8  # of WavLM's projection of each head's queries, twice four that are summed


def encoder_macs(config: Any, samples: int, frames: int) -> Macs:
    """Return what encoding one utterance costs.

    Args:
        config: A transformers configuration of an architecture in ``hub.SUPPORTED``.
        samples: Its length.
        frames: As many as the encoder makes of it.
    """
    count = _conformer_block if config.model_type in _CONFORMERS else _transformer_block
    blocks: int = config.num_hidden_layers
    return _front_end(config, samples, frames) + count(config, frames) * blocks


def _front_end(config: Any, samples: int, frames: int) -> Macs:
    """Count everything before the first block."""
    dim = config.hidden_size
    if config.model_type == "wav2vec2-bert":  # reads filterbanks, which SUPERB does not count
        return Macs(frames * config.feature_projection_input_dim * dim)
    extractor = extractor_macs(samples, config.conv_dim, config.conv_kernel, config.conv_stride)
    projected = extractor + Macs(frames * config.conv_dim[-1] * dim)
    if config.model_type == "wav2vec2-conformer":
        return projected
    depth, kernel = 1, config.num_conv_pos_embeddings
    if config.model_type == "data2vec-audio":
        depth, kernel = config.num_conv_pos_embeddings, config.conv_pos_kernel_size
    groups = config.num_conv_pos_embedding_groups
    return projected + positional_macs(frames, dim, kernel, groups) * depth


def _transformer_block(config: Any, frames: int) -> Macs:
    dim = config.hidden_size
    macs = attention_macs(frames, dim, config.num_attention_heads, dim)
    macs += feed_forward_macs(frames, dim, config.intermediate_size)
    if config.model_type == "wavlm":
        macs += Macs(frames * dim * _GATE_OUTPUTS)
    adapter = getattr(config, "adapter_attn_dim", None)
    if adapter is not None and config.do_stable_layer_norm:
        macs += feed_forward_macs(frames, dim, adapter)
    return macs


def _conformer_block(config: Any, frames: int) -> Macs:
    dim = config.hidden_size
    macs = attention_macs(frames, dim, config.num_attention_heads, dim)
    macs += feed_forward_macs(frames, dim, config.intermediate_size) * 2
    macs += Macs(frames * dim * (2 * dim + config.conv_depthwise_kernel_size + dim))
    if config.position_embeddings_type == "relative":
        distances = 2 * frames - 1
        macs += Macs(distances * dim**2 + frames * distances * dim)
    elif config.position_embeddings_type == "relative_key":
        macs += Macs(frames**2 * dim)
    return macs
