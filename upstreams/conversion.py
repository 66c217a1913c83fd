"""Encoders of fairseq, s3prl and torchaudio as transformers': what their files say of them.

Sizes, norms and biases are read from the tensors. What a file says about itself beside them is
believed where the tensors cannot tell, and must agree with them where they can.
"""

import argparse
import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from auscult.checkpoint import Stub
from auscult.errors import UserError, quoted

from .configuration import build_configuration
from .hub import build_model
from .layout import ADAPTED, BATCH_NORM, CONV, MASK_VECTOR, POSITION, POSITION_BIAS
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

    convolutions = [shape(f"{CONV}.0.conv.weight", 3)]
    while (name := f"{CONV}.{len(convolutions)}.conv.weight") in weights:
        convolutions.append(shape(name, 3))
    hidden, _ = shape("feature_projection.projection.weight", 2)
    batch_norm = BATCH_NORM in weights
    position = "weight" if batch_norm else "parametrizations.weight.original1"
    _, channels, kernel = shape(f"{POSITION}.{position}", 3)
    inner, _ = shape("encoder.layers.0.feed_forward.intermediate_dense.weight", 2)
    numbers = (re.match(r"encoder\.layers\.(\d+)\.", name) for name in weights)
    later_norms = (re.match(rf"{CONV}\.[1-9]\d*\.layer_norm\.", name) for name in weights)
    sizes = {
        "conv_dim": [channel for channel, _, _ in convolutions],
        "conv_kernel": [size for _, _, size in convolutions],
        "conv_bias": f"{CONV}.0.conv.bias" in weights,
        "feat_extract_norm": "layer" if any(later_norms) else "group",
        "feat_proj_layer_norm": "feature_projection.layer_norm.weight" in weights,
        "hidden_size": hidden,
        "num_hidden_layers": len({number[1] for number in numbers if number}),
        "intermediate_size": inner,
        "num_conv_pos_embeddings": kernel,
        "num_conv_pos_embedding_groups": hidden // max(channels, 1),
        "conv_pos_batch_norm": batch_norm,
        "mask_time_prob": 0.05 if MASK_VECTOR in weights else 0.0,  # whether there is a vector
    }
    if ADAPTED in weights:
        sizes["adapter_attn_dim"], _ = shape(ADAPTED, 2)
    if POSITION_BIAS in weights:
        buckets, heads = shape(POSITION_BIAS, 2)
        sizes |= {"num_buckets": buckets, "num_attention_heads": heads}
    return sizes


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
                f"{path} contradicts itself: {name} is {quoted(said[name])} by its configuration "
                f"and {quoted(sizes[name])} by its tensors."
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
            f"'[(512,10,5)] + [(512,3,2)] * 4', got {quoted(text)}."
        ) from error
    return [(channels, kernel, stride) for channels, kernel, stride in found]


def read_activation(path: Path, name: object) -> str:
    """Return transformers' name of fairseq's activation between the feed-forward maps.

    Raises:
        UserError: One that transformers does not have.
    """
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        raise UserError(
            f"{path}: the activation {quoted(name)} is not read, only {', '.join(_ACTIVATIONS)}."
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
        raise UserError(f"{path}: expected options in {name}, got a {type(value).__name__}.")
    return {str(key): item for key, item in value.items()}


def plain_options(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that are plain values or lists of them; numbers of numpy become Python's.

    Raises:
        UserError: One is a tensor or an array.
    """
    plain: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Tensor | np.ndarray):
            kind = "a tensor" if isinstance(value, Tensor) else "an array"
            raise UserError(f"{path}: the option {name:.100} is {kind}; expected a plain value.")
        plain[name] = value
    return plain


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
