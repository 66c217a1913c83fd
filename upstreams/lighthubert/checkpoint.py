"""The published checkpoints: which space, which extractor, and every weight accounted for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted
from auscult.progress import logger
from auscult.snapshot import write_archive

from ..conversion import parse_convolutions, plain_options
from ..weight import fill
from .network import KERNELS, STRIDES
from .scaled import describe_space, read_space
from .space import BASE, SPACES, ExtractorMode, SearchSpace, Subnet, whole
from .supernet import Supernet

# HuBERT's heads over clusters, which the authors' training script left in the files.
_LEFT_OVER = frozenset({"label_embs_concat", "final_proj.weight", "final_proj.bias"})
# Options that change the numbers but no shape, with the only value that is implemented.
_OPTIONS: Mapping[str, object] = {"layer_norm_first": False, "activation_fn": "gelu"}
_MODE_NAMES: Mapping[ExtractorMode, str] = {"layer_norm": "layer_norm", "group_norm": "default"}
_STAGES = {1: "student_hubert", 2: "hubert_pruner"}
_FILE = "lighthubert.pt"
_LAYER_NORM_KEY = "feature_extractor.conv_layers.0.2.1.weight"
_GROUP_NORM_KEY = "feature_extractor.conv_layers.0.2.weight"


@dataclass(frozen=True, slots=True)
class Published:
    """What a published checkpoint holds."""

    supernet: Supernet
    space: SearchSpace
    default: Subnet  # what the encoder is used as where nothing else is asked for


def find_file(path: Path) -> Path | None:
    """Return the checkpoint that ``path`` is, or that pretraining left in it; None without one."""
    if not path.is_dir():
        return path
    file = path / _FILE
    return file if file.is_file() else None


def write_supernet(supernet: Supernet, space: SearchSpace, stage: int, folder: Path) -> Path:
    """Write ``supernet`` in the authors' layout, replacing an older one; return the file.

    Sizes other than the published ones stand beside it, as plain data.

    Args:
        supernet: What was trained.
        space: Its subnets.
        stage: 1 where the largest was trained alone, 2 where any of ``space`` was.
        folder: Receives ``lighthubert.pt``.
    """
    model: dict[str, Any] = {
        "_name": _STAGES[stage],
        "extractor_mode": _MODE_NAMES[supernet.mode],
        **_OPTIONS,
    }
    if space in SPACES.values():
        model["pruner_supernet"] = f"{space.name}.yaml"
    else:
        model["space"] = describe_space(space)
    content = {
        "model": {name: tensor.detach().cpu() for name, tensor in supernet.state_dict().items()},
        "cfg": {"model": model, "task": {"normalize": supernet.mode == "layer_norm"}},
    }
    write_archive(content, folder / _FILE)
    return folder / _FILE


def read_published(path: Path) -> Published:
    """Read a supernet in the authors' layout.

    Raises:
        UserError: Not such a file, or its configuration and weights do not fit each other.
    """
    configuration, state = _parts(path, read_checkpoint(path))
    model = configuration["model"]
    space, default = _find_space(path, model)
    mode = _find_mode(path, configuration, state)
    options = {**_OPTIONS, "encoder_attention_heads": space.stored.heads}
    for option, value in options.items():
        if model.get(option, value) != value:
            raise _not_read(path, option, model[option], value)
    layers = [(space.stored.channels, *sizes) for sizes in zip(KERNELS, STRIDES, strict=True)]
    if parse_convolutions(path, model.get("conv_feature_layers", layers)) != layers:
        raise _not_read(path, "conv_feature_layers", model["conv_feature_layers"], layers)
    with torch.device("meta"):
        supernet = Supernet(mode, space.stored)
    fill(path, supernet, state, _LEFT_OVER)
    if found := sorted(_LEFT_OVER & set(state)):
        logger.info(f"{path}: left over, not of the encoder: {', '.join(found)}.")
    return Published(supernet, space, default)


def _parts(path: Path, content: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    content = content if isinstance(content, Mapping) else {}
    configuration, state = content.get("cfg"), content.get("model")
    if (
        not isinstance(configuration, Mapping)
        or not isinstance(configuration.get("model"), Mapping)
        or not isinstance(state, Mapping)
    ):
        raise UserError(
            f"{path} is not a LightHuBERT checkpoint: expected weights under 'model' and a "
            f"configuration under 'cfg', found {_some(content) or 'neither'} (of an exported "
            "subnet name the folder)."
        )
    parts = {
        name: plain_options(path, part) if isinstance(part, Mapping) else part
        for name, part in configuration.items()
    }
    return parts, state


def _some(names: Mapping[str, Any]) -> str:
    found = [str(name) for name in list(names)[:4]]
    return ", ".join([*found, "..."] if len(names) > len(found) else found)


def _find_space(path: Path, configuration: Mapping[str, Any]) -> tuple[SearchSpace, Subnet]:
    kind = configuration.get("_name")
    if kind not in _STAGES.values():
        raise UserError(
            f"{path} is a model of kind {quoted(kind)}; a LightHuBERT checkpoint is "
            "'hubert_pruner' or 'student_hubert'."
        )
    stage_1 = kind == _STAGES[1]  # which trains all that is stored, and nothing else
    if "space" in configuration:  # of sizes other than the published
        space = read_space(configuration["space"], path)
    else:
        space = BASE if stage_1 else _published_space(path, configuration)
    return space, whole(space.stored) if stage_1 else space.default


def _published_space(path: Path, configuration: Mapping[str, Any]) -> SearchSpace:
    table = str(configuration.get("pruner_supernet"))
    for space in SPACES.values():
        if table.lower().endswith(f"{space.name}.yaml"):
            return space
    raise UserError(
        f"{path}: the search space pruner_supernet = {quoted(table)} is not known; it ends in "
        "small.yaml or base.yaml."
    )


def _find_mode(
    path: Path, configuration: Mapping[str, Any], state: Mapping[str, Any]
) -> ExtractorMode:
    mode: ExtractorMode
    if _LAYER_NORM_KEY in state:
        mode = "layer_norm"
    elif _GROUP_NORM_KEY in state:
        mode = "group_norm"
    else:
        raise UserError(
            f"{path}: the norm of the convolutional extractor is missing: neither "
            f"{_LAYER_NORM_KEY} nor {_GROUP_NORM_KEY} is there."
        )
    task = configuration.get("task")
    normalize = mode == "layer_norm"
    for options, option, value in (
        (configuration["model"], "extractor_mode", _MODE_NAMES[mode]),
        (task if isinstance(task, Mapping) else {}, "normalize", normalize),
    ):
        if options.get(option, value) != value:
            raise UserError(
                f"{path} contradicts itself: its configuration has {option} = "
                f"{quoted(options[option])}, its weights are those of an extractor with {mode}."
            )
    return mode


def _not_read(path: Path, option: str, found: object, value: object) -> UserError:
    return UserError(
        f"{path}: its configuration has {option} = {quoted(found)}; LightHuBERT is read with "
        f"{value!r} only."
    )
