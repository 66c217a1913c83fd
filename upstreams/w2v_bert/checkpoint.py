"""w2v-BERT on disk: tensors in safetensors, dimensions in a config.json beside them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import torch

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted, unknown
from auscult.text import read_table
from auscult.whole_file import write_text

from ..weight import fill, write_weights
from .dimension import Dimensions
from .model import W2vBert, build_w2v_bert

WEIGHTS, CONFIG = "model.safetensors", "config.json"
MODEL_TYPE = "w2v_bert"


def save_w2v_bert(model: W2vBert, folder: Path) -> Sequence[Path]:
    """Write weights, pretraining parts included, and dimensions into ``folder``.

    Each of the two files, which are returned, appears under its name when all of it is written.
    """
    config = {"model_type": MODEL_TYPE} | asdict(model.dimensions)
    write_text(json.dumps(config, indent=2) + "\n", folder / CONFIG)
    return folder / CONFIG, write_weights(model.state_dict(), folder / WEIGHTS)


def load_w2v_bert(path: Path, dropout: float = 0.0) -> W2vBert:
    """Read what `save_w2v_bert` wrote, from its folder or its safetensors file, in float32.

    Args:
        path: Folder or file.
        dropout: In the blocks, where it is trained on.

    Raises:
        UserError: Nothing there, unreadable, or tensors that are not those of the dimensions.
    """
    path = path.expanduser()
    with torch.device("meta"):  # every tensor comes from the file
        model = build_w2v_bert(read_dimensions(path), dropout)
    weights = weights_of(path)
    tensors = read_checkpoint(weights)
    if not isinstance(tensors, dict):
        raise UserError(f"{weights} holds a {type(tensors).__name__}; w2v_bert reads {WEIGHTS}.")
    fill(f"{weights} does not fit its {CONFIG}: it", model, tensors)
    return model


def weights_of(path: Path) -> Path:
    """Return the file with the weights, given it or its folder."""
    return path / WEIGHTS if path.is_dir() else path


def read_dimensions(path: Path) -> Dimensions:
    """Read the dimensions of a checkpoint, given its folder or its safetensors file.

    Raises:
        UserError: No configuration, or not that of a w2v-BERT.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"There is no {path}; w2v_bert needs a safetensors file or its folder.")
    config = (path if path.is_dir() else path.parent) / CONFIG
    if not config.exists():
        raise UserError(
            f"{config} is missing; w2v_bert reads the dimensions there, beside {WEIGHTS}."
        )
    found = read_table(config)
    kind = found.pop("model_type", None)
    if kind != MODEL_TYPE:
        raise UserError(
            f"{config} is not of a w2v-BERT of 2021: expected model_type {MODEL_TYPE!r}, got "
            f"{quoted(kind)}; encoders of transformers, w2v-BERT 2.0 among them, are read by hf."
        )
    known = [field.name for field in fields(Dimensions)]
    for name in found:
        if name not in known:
            raise UserError(f"{config}: {unknown('dimension', name, known)}")
    for name in known:
        if name not in found:
            raise UserError(f"{config} does not name the dimension {name}.")
    try:
        return Dimensions(**found)
    except UserError as error:
        raise UserError(f"{config}: {error}") from error
