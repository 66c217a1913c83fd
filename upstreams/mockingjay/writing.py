"""Checkpoints of Mockingjay and Audio ALBERT, written in s3prl's newer layout and AlbertNew's."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from auscult.snapshot import write_archive

from ..spectral import STRIDE, WINDOW
from .checkpoint import LAYER, MS
from .front_end import NUM_BINS, AlbertFrontEnd, OnlineFrontEnd
from .network import Dimensions, Mockingjay, SpecHead


def write_mockingjay(
    path: Path,
    network: Mockingjay,
    head: SpecHead,
    front_end: OnlineFrontEnd | AlbertFrontEnd,
    *,
    target: str,
    sequence_length: int,
    settings: Mapping[str, int | float | str],
    step: int,
) -> None:
    """Write what `read_mockingjay` and s3prl's own loader read, whole or not at all.

    Args:
        path: Of the file.
        network: The encoder.
        head: That pretraining predicted with.
        front_end: Its features; the papers' are written in the layout of AlbertNew.
        target: What was predicted: ``input`` or ``linear``.
        sequence_length: Frames above which s3prl's layout wants chunks.
        settings: Of the pretraining, for the record.
        step: Updates made.
    """
    sizes = _sizes(network.dimensions)
    if isinstance(front_end, AlbertFrontEnd):
        own: dict[str, Any] = {
            "Mockingjay": _unfold(network, [""]),
            "Settings": {
                "Config": {"mockingjay": sizes | {"downsample_rate": front_end.stack}},
                "Paras": dict(settings),
            },
            "Global_step": step,
        }
    else:
        numbers = [f"{number}." for number in range(network.dimensions.num_layers)]
        own = {
            "Transformer": _unfold(network, numbers),
            "Upstream_Config": {
                "transformer": sizes,
                "task": {"loss": "L1", "sequence_length": sequence_length},
                "audio": _describe(front_end, target),
            },
            "Config": {"runner": dict(settings)},
            "Step": step,
        }
    write_archive({"SpecHead": _on_cpu(head), **own}, path)


def _sizes(dimensions: Dimensions) -> dict[str, Any]:
    """Return the sizes of an encoder as s3prl's configuration names them."""
    return {
        "input_dim": dimensions.input_dim,
        "hidden_size": dimensions.dim,
        "num_hidden_layers": dimensions.num_layers,
        "num_attention_heads": dimensions.heads,
        "intermediate_size": dimensions.inner,
        "hidden_act": "gelu",
        "hidden_dropout_prob": dimensions.dropout,
        "attention_probs_dropout_prob": dimensions.dropout,
        "initializer_range": dimensions.initial_std,
        "begins_nearby": dimensions.begins_nearby,  # of no one else's files
        "layer_norm_eps": dimensions.eps,
        "share_layer": dimensions.share,
        "pre_layer_norm": False,
    }


def _describe(front_end: OnlineFrontEnd, target: str) -> dict[str, Any]:
    """Return features and what was predicted as s3prl's configuration names them."""
    features = {
        "feat_type": front_end.kind,
        "channel": 0,
        "log": front_end.log,
        "delta": front_end.delta_order,
        "cmvn": front_end.cmvn,
    }
    linear = {"feat_type": "linear", "delta": 0} if target == "linear" else {}
    return {
        "target_level": front_end.target_level,
        "win_ms": WINDOW // MS,
        "hop_ms": STRIDE // MS,
        "n_freq": NUM_BINS,
        "n_mels": front_end.num_mels,
        "input": features,
        "target": features | linear,
    }


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    """Return the weights as they load on any machine: torch stores where a tensor was."""
    return {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def _unfold(network: Mockingjay, numbers: Sequence[str]) -> dict[str, Tensor]:
    """Return the weights by their names, a shared layer's under each of ``numbers``."""
    weights = _on_cpu(network)
    if not network.dimensions.share:
        return weights
    shared = f"{LAYER}0."
    return {
        name.replace(shared, f"{LAYER}{number}"): tensor
        for name, tensor in weights.items()
        for number in (numbers if name.startswith(shared) else numbers[:1])
    }
