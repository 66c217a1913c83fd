"""What a stranger's config.json may choose: sizes and what changes numbers, each within a range.

All else in the file is ours to set or has no effect here: attention implementations, kernels,
quantisation, types, code, adapters, pointers to the hub, heads, labels, outputs.
"""

from collections.abc import Mapping, Sized
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError, quoted
from auscult.frame import conv_geometry
from auscult.text import read_table

from .front_end import STACKED

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
MAX_LAYERS = 256
MAX_CONVOLUTIONS = 32
MAX_WIDTH = 1 << 16
MAX_KERNEL = 1 << 13
LEAST_STRIDE = 16  # samples a frame: one every millisecond
ACTIVATIONS = (  # of transformers, without those that have weights or look for code
    *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python"),
    *("gelu_python_tanh", "gelu_pytorch_tanh", "hardswish", "leaky_relu", "linear", "mish"),
    *("quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh"),
)


@dataclass(frozen=True, slots=True)
class _Range:
    """What a number, or each in a list, has to be; its type is transformers' to check."""

    least: float
    most: float

    def admits(self, value: object) -> bool:
        values = value if isinstance(value, list) else [value]
        numbers = [item for item in values if isinstance(item, int | float)]
        return all(self.least <= number <= self.most for number in numbers)

    def __str__(self) -> str:
        return f"from {self.least:g} to {self.most:g}"


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a text has to be; None is transformers' to check."""

    names: tuple[str, ...]

    def admits(self, value: object) -> bool:
        return not isinstance(value, str) or value in self.names

    def __str__(self) -> str:
        return " or ".join(self.names) or "true or false"


_CODE = (  # what makes transformers import, fetch or compile, or read other files
    *("_attn_implementation", "attn_implementation", "auto_map", "configuration_files"),
    *("experts_implementation", "fusion_config", "kernel_config", "per_layer_config"),
    *("quantization_config", "transformers_weights", "use_kernels"),
)
_RATE = _Range(0, 1)
_FLAG = _Choice(())  # a bool by transformers' own check
_WIDTH, _KERNEL = _Range(1, MAX_WIDTH), _Range(1, MAX_KERNEL)
_FIELDS: Mapping[str, _Range | _Choice] = {
    # sizes
    "hidden_size": _WIDTH,
    "intermediate_size": _WIDTH,
    "num_hidden_layers": _Range(1, MAX_LAYERS),
    "num_attention_heads": _Range(1, 1024),
    "conv_dim": _WIDTH,
    "conv_kernel": _KERNEL,
    "conv_stride": _KERNEL,
    "conv_bias": _FLAG,
    "num_conv_pos_embeddings": _KERNEL,  # in data2vec the number of convolutions
    "num_conv_pos_embedding_groups": _WIDTH,
    "conv_pos_kernel_size": _KERNEL,
    "conv_pos_batch_norm": _FLAG,
    "feat_proj_layer_norm": _FLAG,
    "feature_projection_input_dim": _Range(2, 1024),
    "conv_depthwise_kernel_size": _KERNEL,
    "adapter_attn_dim": _WIDTH,  # of maps inside each block
    "mask_time_prob": _RATE,  # whether there is a mask vector
    "mask_feature_prob": _RATE,
    # what no tensor shows
    "do_stable_layer_norm": _FLAG,
    "feat_extract_norm": _Choice(("group", "layer")),
    "feat_extract_activation": _Choice(ACTIVATIONS),
    "hidden_act": _Choice(ACTIVATIONS),
    "layer_norm_eps": _RATE,
    "num_buckets": _Range(4, MAX_WIDTH),
    "max_bucket_distance": _Range(2, 1 << 20),
    "position_embeddings_type": _Choice(("relative", "relative_key", "rotary")),
    "left_max_position_embeddings": _Range(0, MAX_WIDTH),
    "right_max_position_embeddings": _Range(0, MAX_WIDTH),
    "rotary_embedding_base": _Range(1, 1 << 30),
    # training and random twins
    "activation_dropout": _RATE,
    "attention_dropout": _RATE,
    "conformer_conv_dropout": _RATE,
    "feat_proj_dropout": _RATE,
    "hidden_dropout": _RATE,
    "initializer_range": _RATE,
}


def read_configuration(path: Path, holder: object) -> Any:
    """Return the transformers configuration of a supported encoder, of the fields above alone.

    Args:
        path: Its config.json.
        holder: The folder or hub id, for messages.

    Raises:
        UserError: Unreadable, of another architecture, or with a value that cannot be.
    """
    found = read_table(path)
    kind = found.get("model_type")
    if kind not in SUPPORTED:
        raise UserError(f"{holder} is a {quoted(kind)} model; hf reads {', '.join(SUPPORTED)}.")
    if found.get("per_layer_config"):
        raise UserError(f"{path}: blocks that differ (per_layer_config) are not read.")
    return build_configuration(path, str(kind), found)


def check_for_others(path: Path) -> None:
    """Refuse a config.json that another library is to hand to transformers, if it chooses code.

    Raises:
        UserError: It does.
    """
    found = read_table(path)
    for name in _CODE:
        if found.get(name):
            raise UserError(
                f"{path} sets {name} to {quoted(found[name])}, which transformers would follow; "
                "hf reads the folder without."
            )


def build_configuration(path: Path, model_type: str, found: Mapping[str, Any]) -> Any:
    """Return a transformers configuration whose parts fit each other.

    Args:
        path: What says so, for messages.
        model_type: One of `SUPPORTED`.
        found: Fields by transformers' names; those that are not in the list above are left out.

    Raises:
        UserError: A field out of its range or of another type, or fields that do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[model_type]
    known = {field.name for field in fields(kind)} & _FIELDS.keys()
    chosen = {name: found[name] for name in sorted(known & found.keys())}
    for name, value in chosen.items():
        if (
            isinstance(value, Sized)
            and len(value) > MAX_CONVOLUTIONS
            and not isinstance(value, str)
        ):
            raise UserError(
                f"{path}: {name} has {len(value):,} entries; expected {MAX_CONVOLUTIONS} at most."
            )
        if not _FIELDS[name].admits(value):
            raise UserError(f"{path}: {name} is {quoted(value)}; expected {_FIELDS[name]}.")
    try:
        config = kind(**chosen)
    except StrictDataclassError as error:  # its cause says what was expected and what came
        reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
        raise UserError(f"{path} is wrong: {reason}") from error
    if fault := _contradiction(config):
        raise UserError(f"{path} is wrong: {fault}.")
    return config


def _contradiction(config: Any) -> str:
    """Return what is wrong with fields that are right each by itself; empty where nothing is."""
    width, heads = config.hidden_size, config.num_attention_heads
    if width % heads:
        return f"{heads} attention heads do not divide a width of {width}"
    kind = getattr(config, "position_embeddings_type", None)
    if kind == "rotary" and width // heads % 2:
        return f"rotary positions need heads of an even width, and theirs is {width // heads}"
    if config.model_type == "wav2vec2-conformer" and kind == "relative_key":
        return "its positions are relative_key; expected relative or rotary"
    groups = getattr(config, "num_conv_pos_embedding_groups", 1)
    if width % groups:
        return f"num_conv_pos_embedding_groups, {groups}, does not divide a width of {width}"
    if getattr(config, "feature_projection_input_dim", STACKED) % STACKED:
        return (
            f"its input is {config.feature_projection_input_dim} wide, which is no pair of frames"
        )
    if config.model_type == "wavlm" and config.max_bucket_distance <= config.num_buckets // 4:
        return f"max_bucket_distance is {config.max_bucket_distance}, within the exact buckets"
    if config.model_type == "data2vec-audio" and config.num_conv_pos_embeddings > MAX_CONVOLUTIONS:
        return f"it has {config.num_conv_pos_embeddings} positional convolutions"
    return "" if config.model_type == "wav2vec2-bert" else _odd_convolutions(config)


def _odd_convolutions(config: Any) -> str:
    if not config.conv_dim:
        return "it has no convolutions"
    geometry = conv_geometry(tuple(config.conv_kernel), tuple(config.conv_stride))
    if geometry.receptive_field > SAMPLE_RATE or geometry.stride < LEAST_STRIDE:
        return (
            f"a frame reads {geometry.receptive_field} samples every {geometry.stride}; expected "
            f"{SAMPLE_RATE} at most, every {LEAST_STRIDE} at least"
        )
    return ""
