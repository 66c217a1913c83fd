"""Weights of fairseq, s3prl and torchaudio as transformers' encoders: by name, strictly.

Sizes, norms and biases are read from the tensors. What a file says about itself beside them is
believed where the tensors cannot tell, and must agree with them where they can.
"""

import argparse
import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.checkpoint import Stub
from auscult.errors import UserError

from .configuration import build_configuration
from .hub import build_model
from .weight import fill

NORMS = {"default": "group", "layer_norm": "layer"}  # fairseq's extractor modes
_ACTIVATIONS = {  # fairseq's names and transformers'
    "gelu": "gelu",
    "gelu_fast": "gelu_new",
    "gelu_accurate": "gelu_new",
    "relu": "relu",
    "tanh": "tanh",
    "linear": "linear",
}
_CONV = "feature_extractor.conv_layers"
_POSITION = "encoder.pos_conv_embed.conv.parametrizations.weight"
_FEED_FORWARD = r"encoder.layers.\1.feed_forward"
_MASK_VECTOR = "masked_spec_embed"
_TENSOR = "(weight|bias)"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a library names the tensors of an encoder."""

    first: str  # the first convolution, whatever stands before its name
    encoder: tuple[tuple[str, str], ...]  # pattern of a name, and the same in transformers
    others: str  # pattern of the names of heads, which are counted and left out


FAIRSEQ = Layout(
    first="feature_extractor.conv_layers.0.0.weight",
    encoder=(
        (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_TENSOR}", rf"{_CONV}.\1.conv.\2"),
        (rf"feature_extractor\.conv_layers\.0\.2\.{_TENSOR}", rf"{_CONV}.0.layer_norm.\1"),
        (rf"feature_extractor\.conv_layers\.(\d+)\.2\.1\.{_TENSOR}", rf"{_CONV}.\1.layer_norm.\2"),
        (rf"layer_norm\.{_TENSOR}", r"feature_projection.layer_norm.\1"),
        (rf"post_extract_proj\.{_TENSOR}", r"feature_projection.projection.\1"),
        (r"encoder\.pos_conv\.0\.bias", "encoder.pos_conv_embed.conv.bias"),
        (r"encoder\.pos_conv\.0\.weight_g", f"{_POSITION}.original0"),
        (r"encoder\.pos_conv\.0\.weight_v", f"{_POSITION}.original1"),
        (r"encoder\.pos_conv\.0\.(parametrizations\..*)", r"encoder.pos_conv_embed.conv.\1"),
        (rf"encoder\.layer_norm\.{_TENSOR}", r"encoder.layer_norm.\1"),
        (r"encoder\.layers\.(\d+)\.self_attn\.(.*)", r"encoder.layers.\1.attention.\2"),
        (r"encoder\.layers\.(\d+)\.self_attn_(layer_norm\..*)", r"encoder.layers.\1.\2"),
        (r"encoder\.layers\.(\d+)\.(final_layer_norm\..*)", r"encoder.layers.\1.\2"),
        (r"encoder\.layers\.(\d+)\.fc1\.(.*)", rf"{_FEED_FORWARD}.intermediate_dense.\2"),
        (r"encoder\.layers\.(\d+)\.fc2\.(.*)", rf"{_FEED_FORWARD}.output_dense.\2"),
        (r"mask_emb", _MASK_VECTOR),
    ),
    others=r"(quantizer|project_q|final_proj|target_glu|output_layer)\..*|label_embs_concat"
    r"|w2v_encoder\.proj\..*",
)
TORCHAUDIO = Layout(
    first="feature_extractor.conv_layers.0.conv.weight",
    encoder=(
        (r"(feature_extractor\..*)", r"\1"),
        (r"encoder\.(feature_projection\..*)", r"\1"),
        (r"encoder\.transformer\.pos_conv_embed\.conv\.weight_g", f"{_POSITION}.original0"),
        (r"encoder\.transformer\.pos_conv_embed\.conv\.weight_v", f"{_POSITION}.original1"),
        (r"encoder\.transformer\.(.*)", r"encoder.\1"),
        (r"(?:model\.)?mask_generator\.mask_embedding", _MASK_VECTOR),
    ),
    others=r"aux\..*|(model\.)?logit_generator\..*",
)


def sort_weights(
    path: Path, stored: Mapping[str, Any], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the encoder's weights under transformers' names, and the others under their own.

    Raises:
        UserError: Not this layout, or an entry that is neither of the encoder nor of a known head.
    """
    start = next((str(name) for name in stored if str(name).endswith(layout.first)), None)
    if start is None:
        raise UserError(
            f"{path} has no {layout.first}: it holds neither HuBERT nor wav2vec 2.0 as fairseq, "
            "s3prl or torchaudio store them."
        )
    encoder: dict[str, Tensor] = {}
    others: dict[str, Tensor] = {}
    unknown: list[str] = []
    for name, tensor in stored.items():
        bare = str(name).removeprefix(start.removesuffix(layout.first))
        renamed = _rename(bare, layout)
        if not isinstance(tensor, Tensor):
            unknown.append(str(name))
        elif renamed is not None:
            encoder[renamed] = tensor
        elif re.fullmatch(layout.others, bare):
            others[bare] = tensor
        else:
            unknown.append(str(name))
    if unknown:
        listed = ", ".join(sorted(unknown)[:3]) + (", ..." if len(unknown) > 3 else "")
        raise UserError(
            f"{path} holds {len(unknown)} entries that are neither of a HuBERT or wav2vec 2.0 "
            f"encoder nor of a pretraining head that Auscult knows: {listed}."
        )
    return encoder, others


def read_sizes(path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return what the tensors say of their encoder, as transformers names it.

    Raises:
        UserError: A tensor that says it is missing or has another number of axes.
    """

    def shape(name: str, axes: int) -> tuple[int, ...]:
        if name not in weights:
            raise UserError(f"{path} lacks the encoder's {name} (as transformers calls it).")
        if weights[name].ndim != axes:
            raise UserError(f"{path}: expected {axes} axes of {name}, got {weights[name].ndim}.")
        return tuple(weights[name].shape)

    convolutions = [shape(f"{_CONV}.0.conv.weight", 3)]
    while (name := f"{_CONV}.{len(convolutions)}.conv.weight") in weights:
        convolutions.append(shape(name, 3))
    hidden, _ = shape("feature_projection.projection.weight", 2)
    _, channels, kernel = shape(f"{_POSITION}.original1", 3)
    inner, _ = shape("encoder.layers.0.feed_forward.intermediate_dense.weight", 2)
    numbers = (re.match(r"encoder\.layers\.(\d+)\.", name) for name in weights)
    later_norms = (re.match(rf"{_CONV}\.[1-9]\d*\.layer_norm\.", name) for name in weights)
    return {
        "conv_dim": [channel for channel, _, _ in convolutions],
        "conv_kernel": [size for _, _, size in convolutions],
        "conv_bias": f"{_CONV}.0.conv.bias" in weights,
        "feat_extract_norm": "layer" if any(later_norms) else "group",
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in weights,
        "hidden_size": hidden,
        "num_hidden_layers": len({number[1] for number in numbers if number}),
        "intermediate_size": inner,
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": hidden // max(channels, 1),
        "mask_time_prob": 0.05 if _MASK_VECTOR in weights else 0.0,  # whether there is a vector
    }


def write_config(
    path: Path, model_type: str, sizes: Mapping[str, Any], said: Mapping[str, Any]
) -> Any:
    """Return the transformers configuration of an encoder.

    Args:
        path: The file, for messages.
        model_type: ``hubert`` or ``wav2vec2``.
        sizes: What the tensors say.
        said: What the file says beside them, also in transformers' names.

    Raises:
        UserError: The two contradict each other, or cannot be an encoder.
    """
    for name in sizes.keys() & said.keys():
        if said[name] != sizes[name]:
            raise UserError(
                f"{path} contradicts itself: {name} is {said[name]!r} by its configuration and "
                f"{sizes[name]!r} by its tensors."
            )
    return build_configuration(path, model_type, {**said, **sizes, "mask_feature_prob": 0.0})


def fill_model(path: Path, config: Any, weights: Mapping[str, Tensor], seed: int | None) -> Any:
    """Build the encoder that ``config`` describes around ``weights``, each of which must fit.

    Args:
        path: The file, for messages.
        config: A transformers configuration.
        weights: Tensors under transformers' names.
        seed: Draw the weights from this seed and take only the shape from the file; None for the
            weights themselves.

    Raises:
        UserError: A tensor is missing, of another shape or type, or not of the encoder.
    """
    with torch.device("meta"):
        model = build_model(config, 0)
    fill(f"{path}, in transformers' names,", model, weights)
    return model if seed is None else build_model(config, seed)


def parse_convolutions(path: Path, text: object) -> list[tuple[int, int, int]]:
    """Return (channels, kernel, stride) of each convolution, first layer first.

    Args:
        path: The file, for messages.
        text: fairseq's notation ``[(512,10,5)] + [(512,3,2)] * 4``, or the list itself.

    Raises:
        UserError: Anything but sums and small multiples of lists of three positive integers.
    """
    try:
        layers = _evaluate(ast.parse(text, mode="eval").body) if isinstance(text, str) else text
        found: list[tuple[Any, ...]] = [tuple(layer) for layer in layers]  # type: ignore[attr-defined]
        whole = all(type(size) is int and size > 0 for layer in found for size in layer)
        if not found or not whole or any(len(layer) != 3 for layer in found):
            raise ValueError("not three sizes")
    except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{path}: its convolutions cannot be read: expected such as "
            f"'[(512,10,5)] + [(512,3,2)] * 4', got {str(text)[:80]!r}."
        ) from error
    return [(channels, kernel, stride) for channels, kernel, stride in found]


def read_activation(path: Path, name: object) -> str:
    """Return transformers' name of fairseq's activation between the feed-forward maps.

    Raises:
        UserError: One that transformers does not have.
    """
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise UserError(
            f"{path}: the activation {name!r} is not read, only {', '.join(_ACTIVATIONS)}."
        )
    return _ACTIVATIONS[name]


def read_options(path: Path, name: str, value: Any) -> dict[str, Any]:
    """Return a dict, ``argparse.Namespace`` or stub of an object from a file as a dict.

    Raises:
        UserError: None of them.
    """
    if isinstance(value, Stub):
        value = value.stub_state
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if not isinstance(value, Mapping):
        raise UserError(f"{path}: expected options in {name}, got {str(value)[:60]!r}.")
    return {str(key): item for key, item in value.items()}


def _evaluate(node: ast.expr) -> list[Any]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _evaluate(node.left) + _evaluate(node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        times, repeated = ast.literal_eval(node.right), _evaluate(node.left)
        if not isinstance(times, int) or times * len(repeated) > 100:
            raise ValueError("not a number of layers")
        return repeated * times
    layers = ast.literal_eval(node)
    if not isinstance(layers, list):
        raise ValueError("not a list")
    return layers


def _rename(name: str, layout: Layout) -> str | None:
    for pattern, wanted in layout.encoder:
        if found := re.fullmatch(pattern, name):
            return found.expand(wanted)
    return None
