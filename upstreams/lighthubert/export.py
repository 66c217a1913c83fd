"""Subnets as checkpoints of their own: for Auscult, or as a HuBERT for transformers."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted
from auscult.text import read_table
from auscult.whole_file import whole_folder, write_text

from ..hub import write_pretrained
from ..layout import FAIRSEQ, sort_weights
from ..weight import fill, write_weights
from .network import KERNELS, STRIDES, LightHubert
from .scaled import describe_space, read_space
from .slicing import POSITION
from .space import SPACES, ExtractorMode, SearchSpace
from .subnet import read_subnet
from .upstream import LightHubertUpstream

_CONFIG, _WEIGHTS = "config.json", "model.safetensors"
_MODES: tuple[ExtractorMode, ...] = ("layer_norm", "group_norm")


@dataclass(frozen=True, slots=True)
class Exported:
    """A subnet that stands by itself."""

    network: LightHubert
    space: SearchSpace


def export_subnet(upstream: LightHubertUpstream, folder: Path) -> None:
    """Write weights and configuration of a subnet, which ``lighthubert:FOLDER`` reads back.

    Raises:
        UserError: Something stands in ``folder`` already.
    """
    network, space, spec = upstream.network, upstream.space, upstream.spec
    configuration = {
        "family": spec.family,
        "space": space.name if space in SPACES.values() else describe_space(space),
        "subnet": network.subnet.to_dict(),
        "extractor_mode": network.mode,
        "normalize": spec.normalize,
        "source": spec.name,
        "sha256": spec.sha256,  # of these weights and of how they are used
    }
    with _new(folder) as work:
        write_weights(network.state_dict(), work / _WEIGHTS)
        write_text(json.dumps(configuration, indent=2) + "\n", work / _CONFIG)


def read_exported(folder: Path) -> Exported:
    """Read what :func:`export_subnet` wrote.

    Raises:
        UserError: Not such a folder, or weights that do not fit its configuration.
    """
    path = folder / _CONFIG
    configuration = _read_configuration(path)
    space, mode = _find_space(configuration, path), configuration.get("extractor_mode")
    if configuration.get("family") != "lighthubert" or space is None or mode not in _MODES:
        raise UserError(
            f"{path} does not describe a LightHuBERT subnet; lighthubert reads a published "
            "checkpoint file or a folder that `auscult subnet export` wrote."
        )
    if configuration.get("normalize") != (mode == "layer_norm"):
        raise UserError(
            f"{path}: normalize is {quoted(configuration.get('normalize'))}, which does not go "
            f"with a {mode} extractor."
        )
    subnet = read_subnet(configuration.get("subnet"), space, str(path))
    with torch.device("meta"):
        network = LightHubert(subnet, mode)
    fill(folder / _WEIGHTS, network, read_checkpoint(folder / _WEIGHTS))
    return Exported(network, space)


def _find_space(configuration: Mapping[str, Any], path: Path) -> SearchSpace | None:
    found = configuration.get("space")
    return read_space(found, path) if isinstance(found, Mapping) else SPACES.get(str(found))


def export_transformers(upstream: LightHubertUpstream, folder: Path) -> None:
    """Write a subnet whose blocks are alike as a HuBERT that transformers' HubertModel reads.

    Its hidden state 0 is then that of transformers, the input of the first block.

    Raises:
        UserError: transformers has no such HuBERT, or something stands in ``folder`` already.
    """
    from transformers import Wav2Vec2FeatureExtractor

    config = _hubert_config(upstream.network)
    weights = sort_weights(folder, _fairseq_state(upstream.network), (FAIRSEQ,)).encoder
    extractor = Wav2Vec2FeatureExtractor(
        do_normalize=upstream.spec.normalize, return_attention_mask=upstream.spec.normalize
    )
    with _new(folder) as work:
        write_pretrained(weights, config, extractor, work)


def _hubert_config(network: LightHubert) -> Any:
    from transformers import HubertConfig

    subnet, stored = network.subnet, network.subnet.stored
    for what, sizes in (("heads", subnet.heads), ("ffn", subnet.ffn_dims)):
        other = next((i for i, size in enumerate(sizes) if size != sizes[0]), None)
        if other is not None:
            raise UserError(
                "transformers' HuBERT has blocks that are alike; here "
                f"{what}[0] is {sizes[0]} and {what}[{other}] is {sizes[other]}. Export it with "
                "--format auscult."
            )
    if subnet.heads[0] * stored.head_dim != subnet.embed_dim:
        raise UserError(
            "transformers' HuBERT has heads that together are as wide as the embedding; here "
            f"{subnet.heads[0]} heads of {stored.head_dim} stand beside embed_dim "
            f"{subnet.embed_dim}. Export it with --format auscult."
        )
    return HubertConfig(
        architectures=["HubertModel"],
        hidden_size=subnet.embed_dim,
        num_hidden_layers=subnet.depth,
        num_attention_heads=subnet.heads[0],
        intermediate_size=subnet.ffn_dims[0],
        attention_dropout=0.0,
        conv_dim=[stored.channels] * len(KERNELS),
        conv_kernel=list(KERNELS),
        conv_stride=list(STRIDES),
        feat_extract_norm="layer" if network.mode == "layer_norm" else "group",
        num_conv_pos_embeddings=stored.position_kernel,
        num_conv_pos_embedding_groups=stored.position_groups,
    )


def _fairseq_state(network: LightHubert) -> dict[str, Tensor]:
    """Return the weights as fairseq's HuBERT has them: sliced, with a norm for each tap."""
    state = dict(network.state_dict())
    state["mask_emb"] = state["mask_emb"][: network.subnet.embed_dim]
    position = state.pop(f"{POSITION}.weight")
    state[f"{POSITION}.weight_g"] = torch.linalg.vector_norm(position, dim=(0, 1), keepdim=True)
    state[f"{POSITION}.weight_v"] = position
    return state


def _read_configuration(path: Path) -> Mapping[str, Any]:
    if not path.exists():
        raise UserError(
            f"{path.parent} has no {path.name}; lighthubert reads a published checkpoint file or "
            "a folder that `auscult subnet export` wrote."
        )
    return read_table(path)


@contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """Yield a folder to write in, which becomes ``folder`` only if nothing fails.

    Raises:
        UserError: ``folder`` is a file, not empty or a disk's own, or the disk is full.
    """
    if folder.is_mount():
        raise UserError(f"A disk is mounted at {folder}; name a folder on it with --out.")
    if folder.exists() and not (folder.is_dir() and next(folder.iterdir(), None) is None):
        raise UserError(f"{folder} exists and is not an empty folder; name another with --out.")
    with whole_folder(folder) as work:
        yield work
