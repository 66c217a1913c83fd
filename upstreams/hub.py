"""What stands in a folder or on the hub: configuration, weights, normalisation; never code."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.address import place
from auscult.checkpoint import read_checkpoint
from auscult.errors import UserError, quoted
from auscult.progress import logger
from auscult.seed import seeded
from auscult.text import read_table
from auscult.whole_file import write_text

from .configuration import SUPPORTED, read_configuration
from .weight import check_size, fits, plain_names, write_weights

__all__ = ["SUPPORTED", "WHOLE_MODELS", "Source", "find_source", "read_config", "read_model"]

WHOLE_MODELS = ("model.safetensors", "pytorch_model.bin")
_MASK_VECTOR = "masked_spec_embed"  # training alone reads it, and some files lack it
_BLOCK = re.compile(r"encoder\.layers\.(\d{1,6})\.")


@dataclass(frozen=True, slots=True)
class Source:
    """A folder, or a hub id and whether the hub can be reached."""

    name: str
    local_only: bool

    def __str__(self) -> str:
        return self.name


def find_source(checkpoint: str) -> Source:
    """Say where ``checkpoint`` is: a folder if there is one, else a model of the hub.

    Raises:
        UserError: Neither, or a file.
    """
    folder = place(checkpoint)
    if folder.is_file():
        raise UserError(f"{folder} is a file; hf needs the folder that holds it and config.json.")
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(
                f"{folder} has no config.json; hf needs a folder as save_pretrained writes it."
            )
        return Source(str(folder), local_only=True)
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    unreachable = errors.HTTPError  # type: ignore[attr-defined]  # of the hub's own HTTP client
    try:
        HfApi().model_info(checkpoint, timeout=10)
    except errors.HFValidationError as error:
        raise UserError(f"There is no folder {checkpoint}, and it is not a hub id.") from error
    except errors.HfHubHTTPError as error:
        raise UserError(
            f"There is no folder {checkpoint}, and the hub has no such model for you: "
            f"{_first_line(error)}"
        ) from error
    except (unreachable, OSError) as error:
        if not isinstance(try_to_load_from_cache(checkpoint, "config.json"), str):
            raise UserError(
                f"There is no folder {checkpoint}, and as a hub id it is not in the cache and the "
                "hub cannot be reached."
            ) from error
        logger.info(f"The hub cannot be reached; {checkpoint} is read from its cache.")
        return Source(checkpoint, local_only=True)
    return Source(checkpoint, local_only=False)


def find_file(source: Source, name: str) -> Path | None:
    """Return where a file of ``source`` is, fetched where it is not yet; None without one.

    Raises:
        UserError: The hub does not give it, or it is a folder, a pipe, a device or a broken link.
    """
    from transformers.utils import cached_file

    with _readable(source):
        found = cached_file(
            source.name,
            name,
            local_files_only=source.local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=not source.local_only,
        )
    if found is None and os.path.lexists(path := Path(source.name, name)):
        what = "not a regular file" if path.exists() else "a link that leads nowhere"
        raise UserError(f"{path} cannot be read: it is {what}.")
    return None if found is None else Path(found)


def read_config(source: Source) -> Any:
    """Return the transformers configuration of a supported encoder.

    Raises:
        UserError: Unreadable, of another architecture, or an adapter is to be added to it.
    """
    path = find_file(source, "config.json")
    if path is None:
        raise UserError(f"{source} has no config.json; hf needs what save_pretrained writes.")
    if find_file(source, "adapter_config.json") is not None:
        raise UserError(
            f"{source} holds an adapter of PEFT (adapter_config.json) beside its weights: merge it "
            "into them (merge_and_unload), save the whole model in a folder of its own, and name "
            "that."
        )
    return read_configuration(path, source)


def build_model(config: Any, seed: int) -> Any:
    """Build an encoder whose weights are a function of its shape and ``seed`` alone."""
    from transformers import MODEL_MAPPING, AutoModel

    with torch.device("cpu"):  # what is imported for it has constants: not of the meta device
        MODEL_MAPPING.get(type(config), None)
    with seeded(seed):
        model = AutoModel.from_config(_encoder_alone(config), dtype=torch.float32)
    return model.eval()


def draw_model(source: Source, config: Any, seed: int) -> Any:
    """Build the encoder that ``config`` describes with weights from ``seed``.

    Raises:
        UserError: It is larger than what lies beside its configuration, or than any published.
    """
    stored = sum(path.stat().st_size for path in _weight_files(source, fetch=False))
    check_size(source, outline_model(source, config), stored)
    with _readable(source):
        return build_model(config, seed)


def outline_model(source: Source, config: Any) -> Any:
    """Build the encoder that ``config`` describes on the meta device.

    Raises:
        UserError: It describes none.
    """
    with _readable(source), torch.device("meta"):
        return build_model(config, 0)


def write_pretrained(
    weights: Mapping[str, Tensor], config: Any, extractor: Any, folder: Path
) -> list[Path]:
    """Write what transformers' ``save_pretrained`` would, and return the files.

    Each appears whole. The configuration comes last: a folder that has one is complete.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    written = [write_weights(weights, folder / WHOLE_MODELS[0])]
    for name, one in (("preprocessor_config.json", extractor), ("config.json", config)):
        write_text(one.to_json_string(), folder / name)
        written.append(folder / name)
    return written


def read_model(source: Source, config: Any) -> Any:
    """Read weights, and nothing that runs, into the encoder that ``config`` describes.

    Raises:
        UserError: Unreadable, or not the weights of that encoder.
    """
    from transformers import MODEL_MAPPING

    kind: Any = MODEL_MAPPING[type(config)]
    weights = plain_names(_read_weights(source), f"{kind.base_model_prefix}.")
    _check_blocks(source, config, weights)
    wanted = outline_model(source, config).state_dict()
    missing = sorted(set(wanted) - set(weights) - {_MASK_VECTOR})
    mismatched = sorted(n for n in set(wanted) & set(weights) if not fits(weights[n], wanted[n]))
    if missing or mismatched:
        what = "lacks" if missing else "has other shapes for"
        keys = missing or mismatched
        raise UserError(
            f"The weights in {source} do not fit its config.json: it {what} {len(keys)} of the "
            f"encoder's tensors ({keys[0]}{', ...' if len(keys) > 1 else ''})."
        )
    if left_over := sorted(set(weights) - set(wanted)):
        logger.debug(f"{source}: left over, not of the encoder: {', '.join(left_over)}")
    kept = {name: weights[name] for name in wanted if name in weights}
    with _readable(source), _quiet(), seeded(0):  # for the mask vector, where the file lacks it
        model = kind.from_pretrained(
            None, config=_encoder_alone(config), state_dict=kept, dtype=torch.float32
        )
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)  # not of the file
    return model.eval()


def _check_blocks(source: Source, config: Any, weights: Mapping[str, Tensor]) -> None:
    blocks = {int(found[1]) for name in weights if (found := _BLOCK.match(name))}
    if blocks and max(blocks) >= config.num_hidden_layers:
        raise UserError(
            f"The weights in {source} do not fit its config.json: they have {max(blocks) + 1} "
            f"blocks, and num_hidden_layers is {config.num_hidden_layers}."
        )


def _read_weights(source: Source) -> dict[str, Tensor]:
    """Return the tensors of a model."""
    paths = _weight_files(source, fetch=True)
    if not paths:
        raise UserError(f"{source} has no file named {' or '.join(WHOLE_MODELS)}.")
    stored: dict[str, Tensor] = {}
    for path in paths:
        content = read_checkpoint(path)
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: expected a table of tensors, got a {type(content).__name__}.")
        for name, value in content.items():
            if not isinstance(value, Tensor):
                raise UserError(
                    f"The weights in {path} hold more than tensors ({quoted(name)} is a "
                    f"{type(value).__name__}), and code from files is not run; convert them to "
                    "safetensors where you trust them."
                )
            stored[str(name)] = value
    return stored


def _weight_files(source: Source, *, fetch: bool) -> list[Path]:
    """Return the files with a model's weights, in transformers' order of preference.

    Args:
        source: Where the model is.
        fetch: Whether what is not here yet is fetched from the hub; else it is left out.
    """
    where = source if fetch else replace(source, local_only=True)
    for name in WHOLE_MODELS:
        if (path := find_file(where, name)) is not None:
            return [path]
        if (index := find_file(where, f"{name}.index.json")) is not None:
            return [_shard(where, index, shard) for shard in _shards(index)]
    return []


def _shards(index: Path) -> list[str]:
    places = read_table(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(x, str) for x in places.values()):
        raise UserError(f"{index} does not say in which file each tensor is (weight_map).")
    return sorted(set(places.values()))


def _shard(source: Source, index: Path, name: str) -> Path:
    if re.fullmatch(r"[\w.-]{1,255}", name) is None or name.startswith("."):
        raise UserError(f"{index} names a file {quoted(name)}; expected one that stands beside it.")
    path = find_file(source, name)
    if path is None:
        raise UserError(f"{index} names {name}, which is not there.")
    return path


def _encoder_alone(config: Any) -> Any:
    """Leave out what stands behind the encoder and what drops layers or frames at random."""
    config.layerdrop = 0.0
    config.apply_spec_augment = False
    for option in ("add_adapter", "use_intermediate_ffn_before_adapter"):
        if hasattr(config, option):
            setattr(config, option, False)
    return config


@contextmanager
def _readable(source: Source) -> Iterator[None]:
    """Turn whatever transformers and the hub raise at odd files into one sentence."""
    try:
        yield
    except Exception as error:  # theirs alone runs inside, on what a stranger wrote
        raise UserError(f"hf cannot read {source}: {_first_line(error)}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' bar and its report on keys, which read_model checks, off the screen."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _first_line(error: BaseException) -> str:
    """Return what ``error`` says, with its kind where that alone says nothing."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if isinstance(error, OSError | ValueError | RuntimeError):
        return lines[0] if lines else kind
    return f"{kind}: {lines[0]}" if lines else kind
