"""Checkpoint files of Mockingjay and Audio ALBERT, in the three layouts that were written.

s3prl's have ``Transformer`` beside a configuration: older ones in ``Config``, newer ones in
``Upstream_Config``. Those of its branch AlbertNew have ``Mockingjay`` beside ``Settings``.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted

from ..configuration import MAX_LAYERS
from ..conversion import plain_options
from ..spectral import DELTA_REACH, STRIDE, WINDOW, Recipe
from ..weight import fill
from .front_end import NUM_BINS, AlbertFrontEnd, FrontEnd, OnlineFrontEnd
from .network import INITIAL_STD, LEAST_NEARBY, Dimensions, Mockingjay, SpecHead

FILE = "encoder.ckpt"  # in a folder of a pretraining
LAYER = "encoder.layer."
MS = 16  # samples
_MAX_DELTA = 8
_MAX_FILTERS = 1024


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file holds of an encoder."""

    network: Mockingjay
    front_end: FrontEnd
    sequence_length: int  # frames above which an utterance is encoded in chunks; 0 for any
    head_parameters: int


def read_mockingjay(path: Path) -> Checkpoint:
    """Read a checkpoint of either family, running no code from it.

    Raises:
        UserError: Unreadable, of another kind, with features that Auscult does not compute, or
            with tensors that are not those of its configuration.
    """
    states = read_checkpoint(path)
    if not isinstance(states, dict):
        raise UserError(f"{path} holds a {type(states).__name__}, not the parts of a checkpoint.")
    if "Transformer" in states and ("Config" in states or "Upstream_Config" in states):
        return _read_s3prl(path, states)
    if "Mockingjay" in states and "Settings" in states:
        return _read_albert_new(path, states)
    found = ", ".join(sorted(map(str, states))[:8]) or "nothing"
    raise UserError(
        f"{path} is no checkpoint of Mockingjay or Audio ALBERT: expected Transformer and Config "
        "or Upstream_Config, as s3prl writes, or Mockingjay and Settings, as its branch AlbertNew "
        f"does; it has {found}."
    )


@dataclass(frozen=True, slots=True)
class _Section:
    """A part of a file's configuration, and where it stands for those who read about errors."""

    path: Path
    name: str
    values: Mapping[str, Any]

    def part(self, key: str) -> "_Section":
        """Return a nested section."""
        return _section(self.path, f"{self.name}.{key}", self.values.get(key))

    def number(
        self,
        key: str,
        default: float | None = None,
        *,
        least: float = -math.inf,
        most: float = math.inf,
    ) -> float:
        """Return a number from ``least`` to ``most``, which may be written as text."""
        value = self.values.get(key, default)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise self._wrong(key, "a number") from error
        if not least <= number <= most:
            raise self._wrong(key, f"a number from {least:g} to {most:g}")
        return number

    def integer(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = 1_000_000
    ) -> int:
        """Return a whole number from ``least`` to ``most``."""
        number = self.number(key, default)
        if not number.is_integer() or not least <= number <= most:
            raise self._wrong(key, f"a whole number of {least} to {most:,}")
        return int(number)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Return a truth value."""
        value = self.values.get(key, default)
        if not isinstance(value, (bool, int)):
            raise self._wrong(key, "true or false")
        return bool(value)

    def only(self, key: str, wanted: object) -> None:
        """Refuse any other value than ``wanted``, which a missing one stands for."""
        if self.values.get(key, wanted) != wanted:
            raise self._wrong(key, f"{wanted!r}, the one that Auscult computes")

    def _wrong(self, key: str, wanted: str) -> UserError:
        found = quoted(self.values[key]) if key in self.values else "nothing"
        return UserError(f"{self.path}: {self.name}.{key} is {found}; expected {wanted}.")


def _section(path: Path, name: str, values: object) -> _Section:
    if not isinstance(values, Mapping):
        raise UserError(f"{path} has no section {name} in its configuration.")
    return _Section(path, name, plain_options(path, values))


def _read_s3prl(path: Path, states: Mapping[str, Any]) -> Checkpoint:
    legacy = states.get("Config")
    name = (
        "Config" if isinstance(legacy, Mapping) and "transformer" in legacy else "Upstream_Config"
    )
    config = _section(path, name, states.get(name))
    sizes = config.part("transformer")
    sizes.only("pre_layer_norm", False)
    if "audio" not in config.values:
        raise UserError(
            f"{path} does not say how its features are computed ({name}.audio is missing): it was "
            "pretrained on features extracted beforehand, and Auscult reads audio."
        )
    return _assemble(
        sizes,
        _front_end(config.part("audio")),
        share=sizes.flag("share_layer"),
        sequence_length=config.part("task").integer("sequence_length"),
        tensors=states["Transformer"],
        head=states.get("SpecHead"),
    )


def _read_albert_new(path: Path, states: Mapping[str, Any]) -> Checkpoint:
    settings = _section(path, "Settings", states["Settings"])
    config = settings.part("Config")
    names = [
        name
        for name, part in config.values.items()
        if isinstance(part, Mapping) and "num_hidden_layers" in part
    ]
    if len(names) != 1:
        raise UserError(
            f"{path}: {config.name} has {len(names)} sections with num_hidden_layers; expected one."
        )
    sizes = config.part(names[0])
    return _assemble(
        sizes,
        AlbertFrontEnd(sizes.integer("downsample_rate", least=1)),
        share=None,
        sequence_length=0,
        tensors=states["Mockingjay"],
        head=states.get("SpecHead"),
    )


def _front_end(audio: _Section) -> FrontEnd:
    """Return the features that s3prl's configuration describes."""
    if "kaldi" in audio.values:
        return _kaldi(audio)
    audio.only("sample_rate", 1000 * MS)
    audio.only("win_ms", WINDOW // MS)
    audio.only("hop_ms", STRIDE // MS)
    audio.only("n_freq", NUM_BINS)
    wanted = audio.part("input")
    kind = wanted.values.get("feat_type")
    if kind != "linear":
        wanted.only("feat_type", "mel")
    return OnlineFrontEnd(
        kind="linear" if kind == "linear" else "mel",
        num_mels=audio.integer("n_mels", 40, least=1, most=_MAX_FILTERS),
        log=wanted.flag("log", False),
        delta_order=wanted.integer("delta", 0, most=_MAX_DELTA),
        cmvn=wanted.flag("cmvn", False),
        target_level=audio.number("target_level", least=-1000, most=1000),
    )


def _kaldi(audio: _Section) -> Recipe:
    kaldi = audio.part("kaldi")
    kaldi.only("feat_type", "fbank")
    filterbank = kaldi.part("fbank")
    known = {
        "frame_length": WINDOW / MS,
        "frame_shift": STRIDE / MS,
        "use_log_fbank": True,
    }
    for key in filterbank.values:
        if key != "num_mel_bins" and key not in known:
            raise UserError(
                f"{audio.path}: {filterbank.name}.{key} is an option that Auscult does not compute."
            )
    for key, value in known.items():
        filterbank.only(key, value)
    delta = _section(audio.path, f"{audio.name}.delta", audio.values.get("delta", {}))
    delta.only("win_length", 2 * DELTA_REACH + 1)
    return Recipe(
        name="fbank",
        kind="fbank",
        size=filterbank.integer("num_mel_bins", 23, least=1, most=_MAX_FILTERS),
        delta_order=delta.integer("order", 2, most=_MAX_DELTA),
        cmvn=audio.part("cmvn").flag("use_cmvn"),
    )


def _assemble(
    sizes: _Section,
    front_end: FrontEnd,
    *,
    share: bool | None,
    sequence_length: int,
    tensors: object,
    head: object,
) -> Checkpoint:
    """Check sizes and tensors against each other; ``share`` None is to be seen in the tensors."""
    path = sizes.path
    sizes.only("hidden_act", "gelu")
    num_layers = sizes.integer("num_hidden_layers", least=1, most=MAX_LAYERS)
    weights, share = _fold(path, _tensors(path, tensors), num_layers, share)
    dimensions = Dimensions(
        input_dim=front_end.dim,
        num_layers=num_layers,
        share=share,
        dim=sizes.integer("hidden_size", least=1),
        heads=sizes.integer("num_attention_heads", least=1),
        inner=sizes.integer("intermediate_size", least=1),
        eps=sizes.number("layer_norm_eps", least=0, most=1),
        initial_std=sizes.number("initializer_range", INITIAL_STD, least=0, most=1),
        begins_nearby=sizes.flag("begins_nearby", False),
    )
    if dimensions.initial_std == 0:
        raise UserError(
            f"{path}: {sizes.name}.initializer_range is {dimensions.initial_std:g}; expected a "
            "positive number."
        )
    if dimensions.begins_nearby and dimensions.dim < LEAST_NEARBY * dimensions.heads:
        raise UserError(
            f"{path}: {sizes.name}.begins_nearby is for heads of {LEAST_NEARBY} columns or more; "
            f"here {dimensions.heads} heads share {dimensions.dim}."
        )
    if dimensions.dim % dimensions.heads:
        raise UserError(
            f"{path}: {sizes.name}.hidden_size, {dimensions.dim}, is no multiple of its "
            f"num_attention_heads, {dimensions.heads}."
        )
    projection = weights.get("input_representations.spec_transform.weight")
    if projection is not None and projection.shape[-1] != front_end.dim:
        raise UserError(
            f"{path} reads features {projection.shape[-1]} wide, and those that its configuration "
            f"describes are {front_end.dim} wide ({front_end})."
        )
    with torch.device("meta"):
        network = Mockingjay(dimensions)
    fill(f"{path} does not fit its configuration: it", network, weights)
    return Checkpoint(network, front_end, sequence_length, _count_head(path, head))


def _tensors(path: Path, found: object) -> dict[str, Tensor]:
    """Return named tensors; layer norms once had a gamma and a beta."""
    if not isinstance(found, Mapping) or not all(isinstance(x, Tensor) for x in found.values()):
        raise UserError(f"{path}: expected a table of tensors, got a {type(found).__name__}.")
    renamed: dict[str, Tensor] = {}
    for name, tensor in found.items():
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", str(name)))
        renamed[name] = tensor
    return renamed


def _fold(
    path: Path, tensors: dict[str, Tensor], num_layers: int, share: bool | None
) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors with a shared layer named once, and whether it is shared.

    s3prl writes a shared layer under every number, AlbertNew once and without any.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    rest: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(LAYER):
            number, _, part = name.removeprefix(LAYER).partition(".")
            if not number.isdecimal():
                number, part = "", name.removeprefix(LAYER)
            layers.setdefault(number, {})[part] = tensor
        else:
            rest[name] = tensor
    if len(layers) != num_layers and set(layers) not in ({""}, {"0"}):
        raise UserError(
            f"{path} does not fit its configuration: it has {len(layers)} layers, and "
            f"num_hidden_layers is {num_layers}."
        )
    first = next(iter(layers.values()), {})
    alike = all(_equal(layer, first) for layer in layers.values())
    if share is None:
        share = "" in layers or (len(layers) > 1 and alike)
    if share and not alike:
        raise UserError(
            f"{path} is to share one layer (share_layer), but the tensors of its {len(layers)} "
            "layers differ."
        )
    if share:
        layers = {"0": first}
    named = {
        f"{LAYER}{number}.{part}": tensor
        for number, layer in layers.items()
        for part, tensor in layer.items()
    }
    return rest | named, share


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].is_floating_point()
        and other[name].is_floating_point()
        and torch.equal(one[name].float(), other[name].float())  # of any precision
        for name in one
    )


def _count_head(path: Path, head: object) -> int:
    """Return the parameters of the pretraining head, where the file has one."""
    if head is None:
        return 0
    tensors = _tensors(path, head)
    output, dense = tensors.get("output.weight"), tensors.get("dense.weight")
    if output is not None and dense is not None and output.ndim and dense.ndim:
        with torch.device("meta"):
            spec_head = SpecHead(len(output), len(dense))
        fill(f"{path} does not fit its configuration: its SpecHead", spec_head, tensors)
    return sum(tensor.numel() for tensor in tensors.values())
