"""transformers' speech encoders: from a folder, a hub id, or a shape with weights from a seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from auscult.address import Address
from auscult.contracts import SAMPLE_RATE, AttentionMap, HiddenStates, UpstreamSpec, Waveforms
from auscult.errors import UserError
from auscult.frame import FrameGeometry, conv_geometry, conv_lengths
from auscult.progress import logger
from auscult.upstream import AttentionVisitor, Upstream, fingerprint_weights

from .hook import exact_padding, recorded_states, visited_attention
from .shape import SHAPES

SUPPORTED = (
    "data2vec-audio",
    "hubert",
    "unispeech",
    "unispeech-sat",
    "wav2vec2",
    "wav2vec2-bert",
    "wav2vec2-conformer",
    "wavlm",
)
# What the weights of these names do is to train: an encoder that lacks them is complete.
UNUSED = ("masked_spec_embed", "adapter.", "intermediate_ffn.")
# What changes the numbers, beside the weights; training options and library versions do not.
_FINGERPRINTED = (
    ("model_type", "hidden_act", "feat_extract_activation", "feat_extract_norm", "conv_stride")
    + ("do_stable_layer_norm", "num_attention_heads", "layer_norm_eps", "position_embeddings_type")
    + ("num_buckets", "max_bucket_distance", "rotary_embedding_base")
)
Padding = Literal["group", "mask"]


class HuggingFaceUpstream(Upstream):
    """A transformers speech encoder whose rows do not see each other's padding.

    Hidden state 0 is the input of the first block; the last is the encoder's output, which in
    pre-norm models (``do_stable_layer_norm``, Conformer) is after the final layer norm.

    Utterances of different lengths are either encoded in groups of equal length, without padding,
    or padded together with every layer masked; both give an utterance's own features. Groups are
    faster on a CPU, padded batches on an accelerator, and that is the default. Attention maps of a
    batch are always computed together.
    """

    def __init__(
        self, model: Any, *, name: str, source: str, normalize: bool, padding: Padding | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.padding = padding
        config = model.config
        self._stacked_filterbanks = config.model_type == "wav2vec2-bert"
        self._kernels = () if self._stacked_filterbanks else tuple(config.conv_kernel)
        self._strides = () if self._stacked_filterbanks else tuple(config.conv_stride)
        self._mel = _mel_extractor() if self._stacked_filterbanks else None
        final_norm = getattr(config, "do_stable_layer_norm", False)
        final_norm |= config.model_type == "wav2vec2-conformer"
        self.spec = UpstreamSpec(
            name=name,
            family=config.model_type,
            num_layers=config.num_hidden_layers,
            dim=config.hidden_size,
            heads=(config.num_attention_heads,) * config.num_hidden_layers,
            geometry=FrameGeometry(320, 560)
            if self._stacked_filterbanks
            else conv_geometry(self._kernels, self._strides),
            normalize=normalize,
            convention="block_input, final_norm" if final_norm else "block_input",
            num_parameters=sum(p.numel() for p in model.parameters()),
            source=source,
            sha256=fingerprint_weights(
                model.state_dict(), [json.dumps(_forward_options(config)), str(normalize)]
            ),
        )

    def forward(self, audio: Waveforms) -> HiddenStates:
        """Encode ``audio`` into ``num_layers + 1`` states, each (batch, frame, dim)."""
        frames = self.check_audio(audio)
        padding = self.padding or ("group" if self.device.type == "cpu" else "mask")
        if padding == "mask":
            return HiddenStates(self._encode(audio, frames), frames)
        rows: list[tuple[Tensor, ...]] = [()] * len(frames)  # of each utterance, its layers
        for indices in _equal_lengths(audio.lengths.tolist()):
            length = int(audio.lengths[indices[0]])
            group = Waveforms(audio.samples[indices, :length], audio.lengths[indices])
            layers = self._encode(group, frames[indices])
            for i, index in enumerate(indices):
                rows[index] = tuple(layer[i] for layer in layers)
        states = tuple(pad_sequence(list(layer), batch_first=True) for layer in zip(*rows))
        return HiddenStates(states, frames)

    def num_frames(self, lengths: Tensor) -> Tensor:
        """Return the valid frames (batch,) of utterances of ``lengths`` (batch,) samples."""
        if self._stacked_filterbanks:  # 25 ms windows every 10 ms, then pairs of them
            return conv_lengths(lengths, (400, 2), (160, 2))
        return conv_lengths(lengths, self._kernels, self._strides)

    def visit_attention(self, audio: Waveforms, visit: AttentionVisitor) -> HiddenStates:
        """Encode ``audio`` and hand each block's map to ``visit``, first block first."""
        frames = self.check_audio(audio)

        def hand_over(block: int, weights: Tensor) -> None:
            visit(AttentionMap(block, weights, frames))

        with visited_attention(self.model, hand_over):
            return HiddenStates(self._encode(audio, frames), frames)

    def _encode(self, audio: Waveforms, frames: Tensor) -> tuple[Tensor, ...]:
        """Return the states of one batch, each (batch, frame, dim), masked where lengths differ."""
        inputs = pad_sequence([self._prepare(row) for row in audio.rows()], batch_first=True)
        inputs = inputs.to(self.device)
        ragged = len(set(frames.tolist())) > 1 or len(set(audio.lengths.tolist())) > 1
        mask, padding = None, nullcontext()
        if ragged:
            valid = frames if self._stacked_filterbanks else audio.lengths
            steps = torch.arange(inputs.shape[1], device=self.device)
            mask = steps[None] < valid.to(self.device)[:, None]
            padding = exact_padding(self.model, audio.lengths, frames, self._kernels, self._strides)
        with recorded_states(self.model.encoder) as states, padding:
            self.model(
                inputs,
                attention_mask=mask,
                output_hidden_states=False,
                output_attentions=False,
            )
        longest = int(frames.max())
        return tuple(state[:, :longest] for state in states)

    def _prepare(self, samples: Tensor) -> Tensor:
        """Return what the model reads of one utterance: samples (time,) or features (frame, dim)."""
        if self._mel is not None:
            features = self._mel(
                samples.cpu().numpy(),
                sampling_rate=SAMPLE_RATE,
                padding=False,
                do_normalize_per_mel_bins=self.spec.normalize,
                return_tensors="pt",
            )
            return torch.as_tensor(features["input_features"][0])
        if self.spec.normalize:
            variance, mean = torch.var_mean(samples, correction=0)
            return (samples - mean) / torch.sqrt(variance + 1e-7)
        return samples


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a folder or on the hub; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: Nothing there, an unsupported architecture, or weights that do not fit it.
    """
    if address.subnet:
        raise UserError(f"{address}: the family hf has no subnets; drop @{address.subnet}.")
    if not address.checkpoint:
        raise UserError("hf needs a folder or a hub id, such as hf:/models/wavlm-base.")
    from transformers import AutoConfig

    source = str(Path(address.checkpoint).expanduser())
    with _readable(source):
        config = AutoConfig.from_pretrained(source)
    if config.model_type not in SUPPORTED:
        raise UserError(
            f"{source} is a {config.model_type!r} model; hf reads {', '.join(SUPPORTED)}."
        )
    normalize = _reads_normalized(source, config)
    model = build_model(config, seed) if address.random else _read_model(source, config)
    return HuggingFaceUpstream(model, name=str(address), source=source, normalize=normalize)


def load_shape(address: Address, seed: int) -> Upstream:
    """Build a named shape with weights from ``seed``."""
    from transformers import AutoConfig

    shape = SHAPES[address.family]
    model = build_model(AutoConfig.for_model(shape.model_type, **shape.settings), seed)
    return HuggingFaceUpstream(
        model, name=str(address), source=shape.name, normalize=shape.normalize
    )


def build_model(config: Any, seed: int) -> Any:
    """Build a transformers speech encoder whose weights are a function of its shape and ``seed``."""
    from transformers import AutoModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModel.from_config(_without_noise(config), dtype=torch.float32)
    return model.eval()


def _read_model(source: str, config: Any) -> Any:
    """Read weights, and nothing that runs, into the encoder that ``config`` describes."""
    from transformers import AutoModel

    with _readable(source), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # what training alone uses and the file lacks is drawn
        model, loading = AutoModel.from_pretrained(
            source,
            config=_without_noise(config),
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
    missing = sorted(k for k in loading["missing_keys"] if not k.startswith(UNUSED))
    mismatched = sorted(str(key) for key in loading["mismatched_keys"])
    if missing or mismatched:
        what = "lacks" if missing else "has other shapes for"
        keys = missing or mismatched
        raise UserError(
            f"The checkpoint {source} {what} {len(keys)} of the encoder's weights ({keys[0]}, ...); "
            "it was saved for another configuration, and the encoder would be partly random."
        )
    if left_over := sorted(loading["unexpected_keys"]):
        logger.debug(f"{source}: left over, not of the encoder: {', '.join(left_over)}")
    return model.eval()


def _without_noise(config: Any) -> Any:
    """Switch off what would drop layers or frames at random while training a head."""
    config.layerdrop = 0.0
    config.apply_spec_augment = False
    return config


def _forward_options(config: Any) -> Mapping[str, Any]:
    found = config.to_dict()
    return {key: found[key] for key in _FINGERPRINTED if key in found}


def _reads_normalized(source: str, config: Any) -> bool:
    """Whether the encoder expects each utterance at zero mean and unit variance."""
    from transformers.utils import cached_file

    with _readable(source):
        path = cached_file(
            source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False
        )
    if path is not None:
        settings = json.loads(Path(path).read_text())
        return bool(settings.get("do_normalize", True))
    normalize = getattr(config, "feat_extract_norm", "layer") == "layer"
    logger.info(
        f"{source} has no preprocessor_config.json: utterances are "
        f"{'normalised' if normalize else 'read as they are'}, as the extractor's norm suggests."
    )
    return normalize


def _mel_extractor() -> Any:
    from transformers import SeamlessM4TFeatureExtractor

    return SeamlessM4TFeatureExtractor(feature_size=80, stride=2)


def _equal_lengths(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield the indices of the rows of each length."""
    for length in dict.fromkeys(lengths):
        yield [i for i, other in enumerate(lengths) if other == length]


@contextmanager
def _readable(source: str) -> Iterator[None]:
    """Turn transformers' many errors about what is not there into one sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = "the folder" if Path(source).exists() else "the folder or hub id"
        raise UserError(f"hf cannot read {where} {source!r}: {reason}") from error
