"""DistilHuBERT as s3prl's Distiller stores it: what its file says, and its prediction heads.

Hidden states follow the convention of all encoders: state 0 is the input of the first block, after
positional convolution and layer norm. s3prl's first state of a Distiller is an earlier one, the
projected features, and its last ones are the predictions, which are not states of the encoder.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted

from ..configuration import MAX_LAYERS
from ..conversion import NORMS, parse_convolutions, read_activation, read_options

_CONVOLUTIONS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"
_SIZES = {
    "encoder_layers": (1, "num_hidden_layers"),  # s3prl's defaults, and transformers' names
    "encoder_embed_dim": (768, "hidden_size"),
    "encoder_ffn_embed_dim": (3072, "intermediate_size"),
    "encoder_attention_heads": (12, "num_attention_heads"),
    "conv_pos": (128, "num_conv_pos_embeddings"),
    "conv_pos_groups": (16, "num_conv_pos_embedding_groups"),
}
_HEAD = "output_layer."


class PredictionHeads(nn.Module):
    """What DistilHuBERT was trained by: one prediction of each of some layers of its teacher.

    Args:
        dim: Width of the encoder.
        inner: Width between the two maps of a prediction.
        predicted: Width of the teacher.
        teacher_layers: The teacher's hidden state that each prediction is of.

    Reference: s3prl 0.4.18, upstream/distiller/model.py, ``output_layer`` of ``DistillerModel``.
    """

    def __init__(
        self, dim: int, inner: int, predicted: int, teacher_layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.teacher_layers = teacher_layers
        self.output_layer = nn.Sequential(
            nn.Linear(dim, inner * len(teacher_layers)),
            nn.GELU(),
            _MapsApart(len(teacher_layers), inner, predicted),
        )

    def forward(self, last: Tensor) -> Tensor:
        """Predict from the encoder's last hidden state.

        Args:
            last: (batch, frame, dim).

        Returns:
            (batch, prediction, frame, dim), in the order of ``teacher_layers``.
        """
        predictions: Tensor = self.output_layer(last)
        return predictions


class _MapsApart(nn.Module):
    """A linear map of its own for each prediction."""

    def __init__(self, predictions: int, inner: int, predicted: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(predictions, inner, predicted))
        self.bias = nn.Parameter(torch.zeros(1, 1, predictions, predicted))

    def forward(self, expanded: Tensor) -> Tensor:
        apart = expanded.unflatten(-1, self.weight.shape[:2]).transpose(1, 2)
        mapped: Tensor = apart @ self.weight + self.bias.transpose(1, 2)
        return mapped  # (batch, prediction, frame, dim)


def read_prediction_heads(path: Path) -> PredictionHeads:
    """Return the prediction heads in a checkpoint of s3prl's Distiller, in evaluation mode.

    Raises:
        UserError: Not such a checkpoint, or one without heads.
    """
    content = read_checkpoint(path)
    options, stored = split_distiller(path, content)
    weights = {
        str(name): tensor.detach().float()
        for name, tensor in stored.items()
        if str(name).startswith(_HEAD) and isinstance(tensor, Tensor)
    }
    if f"{_HEAD}2.layer.weight" in weights:  # of one prediction, stored as a linear layer
        weights[f"{_HEAD}2.weight"] = weights.pop(f"{_HEAD}2.layer.weight").T[None]
        weights[f"{_HEAD}2.bias"] = weights.pop(f"{_HEAD}2.layer.bias")[None, None, None]
    names = {f"{_HEAD}{layer}.{tensor}" for layer in (0, 2) for tensor in ("weight", "bias")}
    if set(weights) != names:
        raise UserError(
            f"{path} has no prediction heads: expected {', '.join(sorted(names))}, found "
            f"{', '.join(sorted(weights)) or 'none of them'}."
        )
    expand, apart = weights[f"{_HEAD}0.weight"], weights[f"{_HEAD}2.weight"]
    number, named = options.get("n_tasks", 12), options.get("pred_layer_id")
    if named is None and isinstance(number, int) and 0 < number <= MAX_LAYERS:
        named = range(1, number + 1)
    if not isinstance(named, Sequence) or not all(isinstance(layer, int) for layer in named):
        raise UserError(
            f"{path}: expected the teacher's layers that are predicted in pred_layer_id, or their "
            f"number in n_tasks; got {quoted(named)} and {quoted(number)}."
        )
    layers = tuple(named)
    fits = expand.ndim == 2 and apart.ndim == 3 and len(layers) == len(apart)
    if not fits or len(expand) != apart.shape[0] * apart.shape[1]:
        raise UserError(
            f"{path}: its prediction heads have the shapes {tuple(expand.shape)} and "
            f"{tuple(apart.shape)}, which do not make {len(layers)} predictions (pred_layer_id)."
        )
    heads = PredictionHeads(expand.shape[1], apart.shape[1], apart.shape[2], layers)
    heads.load_state_dict(weights)
    return heads.eval()


def split_distiller(path: Path, content: Any) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Return the options and the tensors of the network in a Distiller checkpoint.

    Raises:
        UserError: Not a Distiller checkpoint.
    """
    if not isinstance(content, Mapping) or not {"Distiller", "Config"} <= set(content):
        raise UserError(
            f"{path} is not a checkpoint of s3prl's Distiller: it lacks Distiller or Config."
        )
    config = read_options(path, "Config", content["Config"])
    options = read_options(path, "Config.distiller", config.get("distiller"))
    return options, read_options(path, "Distiller", content["Distiller"])


def describe_distiller(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a Distiller's options say of its encoder, as transformers names it.

    Raises:
        UserError: A variant of the Distiller that is not read.
    """
    for name, known in (
        ("attention_type", ("original",)),
        ("task_emb_type", ("expand-last", "self-hidden", "none")),
    ):
        if (value := options.get(name, known[0])) not in known:
            raise UserError(
                f"{path}: a Distiller with {name}={quoted(value)} is not read, only "
                f"{' or '.join(known)}."
            )
    convolutions = parse_convolutions(
        path, options.get("extractor_conv_feature_layers", _CONVOLUTIONS)
    )
    mode = options.get("extractor_mode", "default")
    return {
        **{new: options.get(old, default) for old, (default, new) in _SIZES.items()},
        "conv_dim": [channels for channels, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "conv_bias": False,
        "feat_extract_norm": NORMS.get(mode, mode) if isinstance(mode, str) else mode,
        "feat_proj_layer_norm": False,
        "do_stable_layer_norm": bool(options.get("layer_norm_first", False)),
        "hidden_act": read_activation(path, options.get("activation_fn", "gelu")),
    }
