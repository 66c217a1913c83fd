"""transformers' speech encoders: from a folder, a hub id, or a shape with weights from a seed."""

import json
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.address import Address
from auscult.contracts import AttentionMap, UpstreamSpec, Waveforms
from auscult.cost import Macs
from auscult.errors import UserError
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

from ..front_end import EPSILON, front_end_of
from ..hook import exact_padding, recorded_states, single_precision, visited_attention
from ..hub import build_model, draw_model, find_source, read_config, read_model
from ..padded import PaddedUpstream, Padding
from ..shape import SHAPES, Shape
from .cost import encoder_macs
from .extractor import reads_normalized

# What changes the numbers, beside the weights; training options and library versions do not.
_FINGERPRINTED = (
    "model_type",
    "conv_stride",
    "do_stable_layer_norm",
    "feat_extract_activation",
    "feat_extract_norm",
    "hidden_act",
    "layer_norm_eps",
    "left_max_position_embeddings",
    "max_bucket_distance",
    "num_attention_heads",
    "num_buckets",
    "position_embeddings_type",
    "right_max_position_embeddings",
    "rotary_embedding_base",
)


class HuggingFaceUpstream(PaddedUpstream):
    """A transformers speech encoder whose rows do not see each other's padding.

    Hidden state 0 is the input of the first block; the last is the encoder's output, which in
    pre-norm models (``do_stable_layer_norm``, Conformer) is after the final layer norm.
    """

    def __init__(
        self,
        model: Any,
        *,
        name: str,
        source: str,
        normalize: bool,
        epsilon: float = EPSILON,
        head_parameters: int = 0,
        padding: Padding | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.padding = padding
        config = model.config
        self.front_end = front_end_of(config, normalize, epsilon)
        self.spec = UpstreamSpec(
            name=name,
            family=config.model_type,
            num_layers=config.num_hidden_layers,
            dim=config.hidden_size,
            heads=(config.num_attention_heads,) * config.num_hidden_layers,
            geometry=self.front_end.geometry,
            normalize=normalize,
            convention="block_input, final_norm" if _has_final_norm(config) else "block_input",
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
            head_parameters=head_parameters,
            source=source,
            sha256=_fingerprint(model, normalize, epsilon),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return self.front_end.num_frames(lengths)

    def count_macs(self, samples: int) -> Macs:
        """Return what encoding one utterance of ``samples`` costs, from the configuration alone."""
        frames = self.spec.geometry.unpadded_frames(samples)
        return encoder_macs(self.model.config, samples, frames)

    def encode(
        self, audio: Waveforms, frames: Tensor, visit: AttentionVisitor | None
    ) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim), masked where lengths differ."""
        rows = [self.front_end.prepare(row) for row in audio.rows()]
        inputs = pad_sequence(rows, batch_first=True).to(self.device)
        mask: Tensor | None = None
        padding: AbstractContextManager[None] = nullcontext()
        if len(set(audio.lengths.tolist())) > 1:
            mask = pad_sequence([torch.ones(len(row)) for row in rows], batch_first=True)
            mask = mask.to(self.device, torch.bool)
            padding = exact_padding(
                self.model,
                audio.lengths,
                frames,
                kernels=self.front_end.kernels,
                strides=self.front_end.strides,
            )
        attention: AbstractContextManager[None] = nullcontext()
        if visit is not None:
            attention = visited_attention(
                self.model, lambda block, weights: visit(AttentionMap(block, weights, frames))
            )
        with (
            recorded_states(self.model.encoder) as states,
            attention,
            padding,
            single_precision(),
        ):
            self.model(
                inputs, attention_mask=mask, output_hidden_states=False, output_attentions=False
            )
        return tuple(states)


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a folder or on the hub; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: Nothing there, an unsupported architecture, or weights that do not fit it.
    """
    if not address.checkpoint:
        raise UserError("hf needs a folder or a hub id, such as hf:/models/wavlm-base.")
    source = find_source(address.checkpoint)
    config = read_config(source)
    normalize = reads_normalized(source, config)
    model = draw_model(source, config, seed) if address.random else read_model(source, config)
    return HuggingFaceUpstream(model, name=str(address), source=str(source), normalize=normalize)


def load_shape(address: Address, seed: int) -> Upstream:
    """Build a named shape with weights from ``seed``."""
    shape = SHAPES[address.family]
    model = build_model(build_config(shape), seed)
    return HuggingFaceUpstream(
        model,
        name=str(address),
        source=shape.name,
        normalize=shape.normalize,
        head_parameters=shape.head_parameters,
    )


def build_config(shape: Shape) -> Any:
    """Return the transformers configuration of a named shape."""
    from transformers import AutoConfig

    return AutoConfig.for_model(shape.family, **shape.settings)


def _has_final_norm(config: Any) -> bool:
    pre_norm: bool = getattr(config, "do_stable_layer_norm", False)
    return pre_norm or config.model_type == "wav2vec2-conformer"


def _fingerprint(model: Any, normalize: bool, epsilon: float) -> str:
    found = model.config.to_dict()
    options = {name: found[name] for name in _FINGERPRINTED if name in found}
    how = [json.dumps(options), f"normalize={normalize}"]
    if normalize and epsilon != EPSILON:
        how.append(f"epsilon={epsilon}")
    return fingerprint_weights(model.state_dict(), how)
