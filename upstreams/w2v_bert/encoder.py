"""w2v-BERT behind the contract of an encoder: from audio to the states of both modules."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from auscult.address import Address, place
from auscult.contracts import UpstreamSpec, Waveforms
from auscult.cost import Macs, attention_macs, feed_forward_macs
from auscult.errors import UserError
from auscult.frame import conv_geometry, conv_lengths
from auscult.seed import seeded
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

from ..hook import single_precision
from ..padded import PaddedUpstream
from ..spectral import STRIDE as STEP
from ..spectral import WINDOW, Recipe
from ..weight import check_size
from .checkpoint import load_w2v_bert, read_dimensions, weights_of
from .dimension import KERNEL, STRIDE, Dimensions, subsampled
from .model import Encoder, build_encoder, build_heads, build_quantizer, named_dimensions

_KERNELS, _STRIDES = (WINDOW, KERNEL, KERNEL), (STEP, STRIDE, STRIDE)


class W2vBertUpstream(PaddedUpstream):
    """w2v-BERT's encoder on Kaldi filterbanks: every 40 ms, the blocks of both modules in a row.

    Each filter has zero mean and unit variance over the utterance: the paper does not say how its
    filterbanks are normalised. A frame's receptive field does not count these statistics.
    """

    def __init__(self, encoder: Encoder, size: Dimensions, *, name: str, source: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.size = size
        self.recipe = input_recipe(size)
        self.spec = UpstreamSpec(
            name=name,
            family="w2v_bert",
            num_layers=size.num_layers,
            dim=size.dim,
            heads=(size.heads,) * size.num_layers,
            geometry=conv_geometry(_KERNELS, _STRIDES),
            modules=_modules(size),
            num_parameters=sum(parameter.numel() for parameter in encoder.parameters()),
            head_parameters=count_head_parameters(size),
            source=source,
            sha256=fingerprint_weights(
                encoder.state_dict(), [repr(self.recipe), f"heads={size.heads}"]
            ),
        )

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        return conv_lengths(lengths, _KERNELS, _STRIDES)

    def encode(
        self, audio: Waveforms, frames: Tensor, visit: AttentionVisitor | None
    ) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim), padding kept out of them."""
        filterbanks = compute_filterbanks(audio, self.recipe).to(self.device)
        with single_precision():
            features = self.encoder.feature_encoder(filterbanks)
            states: tuple[Tensor, ...] = self.encoder(features, frames, visit=visit)
        return states

    def count_macs(self, samples: int) -> Macs:
        """Return what encoding one utterance of ``samples`` costs, from the dimensions alone."""
        size = self.size
        steps, filters = max((samples - WINDOW) // STEP + 1, 0), size.filters
        products, wide = 0, 1
        for _ in range(2):
            steps, filters = subsampled(steps), subsampled(filters)
            products += steps * filters * KERNEL**2 * wide * size.channels
            wide = size.channels
        products += steps * size.feature_dim * size.dim
        convolution = Macs(steps * size.dim * (3 * size.dim + size.conv_kernel))
        feed_forward = feed_forward_macs(steps, size.dim, size.feed_forward)
        attention = attention_macs(steps, size.dim, size.heads, size.dim)
        return Macs(products) + (feed_forward * 2 + attention + convolution) * size.num_layers


def input_recipe(size: Dimensions) -> Recipe:
    """Return how the filterbanks that the encoder reads are computed."""
    return Recipe("w2v_bert", "fbank", size.filters, delta_order=0, cmvn=True)


def compute_filterbanks(audio: Waveforms, recipe: Recipe) -> Tensor:
    """Return the filterbanks (batch, step, filter) of each row, padded with zeros."""
    return pad_sequence([recipe.features(row) for row in audio.rows()], batch_first=True)


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a folder or file; inside ``random(...)`` keep only its dimensions.

    Raises:
        UserError: Nothing there, unreadable, or weights that do not fit their dimensions.
    """
    if not address.checkpoint:
        raise UserError(
            "w2v_bert needs a safetensors file or its folder, such as w2v_bert:models/w2v-bert; "
            "for weights from a seed write random(w2v_bert_xl)."
        )
    path = place(address.checkpoint)
    if address.random:
        size, weights = read_dimensions(path), weights_of(path)
        stored = weights.stat().st_size if weights.is_file() else 0
        return _draw(size, seed, name=str(address), source=str(path), stored=stored)
    model = load_w2v_bert(path)
    return W2vBertUpstream(model.encoder, model.dimensions, name=str(address), source=str(path))


def load_shape(address: Address, seed: int) -> Upstream:
    """Build a named shape with weights from ``seed``."""
    size = named_dimensions(address.family)
    return _draw(size, seed, name=str(address), source=address.family)


def count_head_parameters(size: Dimensions) -> int:
    """Return the parameters of quantiser and prediction heads."""
    with torch.device("meta"):
        parts = build_quantizer(size), build_heads(size)
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _modules(size: Dimensions) -> tuple[tuple[str, int], ...]:
    """Return each module that has blocks, and the block it ends with."""
    contrastive = ("contrastive", size.contrastive_blocks)
    masked_prediction = ("masked_prediction", size.num_layers)
    found = [contrastive] if size.contrastive_blocks else []
    return (*found, *([masked_prediction] if size.masked_prediction_blocks else []))


def _draw(size: Dimensions, seed: int, *, name: str, source: str, stored: int = 0) -> Upstream:
    with torch.device("meta"):
        outline = build_encoder(size)
    check_size(source, outline, stored)
    with seeded(seed):
        encoder = build_encoder(size)
    return W2vBertUpstream(encoder, size, name=name, source=source)
