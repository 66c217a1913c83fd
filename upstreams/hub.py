"""What stands in a folder or on the hub: configuration, weights, normalisation; never code."""

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.progress import logger
from auscult.seed import seeded

from .packaged import WEIGHTS

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
_MASK_VECTOR = "masked_spec_embed"  # training alone reads it, and some files lack it
_BLOCK = re.compile(r"(?:^|\.)encoder\.layers\.(\d+)\.")


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
    folder = Path(checkpoint).expanduser()
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


def read_config(source: Source) -> Any:
    """Return the transformers configuration of a supported encoder.

    Raises:
        UserError: Unreadable, or of another architecture.
    """
    from transformers import AutoConfig

    with _readable(source):
        config = AutoConfig.from_pretrained(
            source.name, local_files_only=source.local_only, trust_remote_code=False
        )
    if config.model_type not in SUPPORTED:
        raise UserError(
            f"{source} is a {config.model_type!r} model; hf reads {', '.join(SUPPORTED)}."
        )
    return config


def build_model(config: Any, seed: int) -> Any:
    """Build an encoder whose weights are a function of its shape and ``seed`` alone."""
    from transformers import MODEL_MAPPING, AutoModel

    with torch.device("cpu"):  # what is imported for it has constants: not of the meta device
        MODEL_MAPPING.get(type(config), None)
    with seeded(seed):
        model = AutoModel.from_config(_encoder_alone(config), dtype=torch.float32)
    return model.eval()


def read_model(source: Source, config: Any) -> Any:
    """Read weights, and nothing that runs, into the encoder that ``config`` describes.

    Raises:
        UserError: Unreadable, or not the weights of that encoder.
    """
    from transformers import AutoModel

    with _readable(source), _quiet(), seeded(0):  # for the mask vector, where the file lacks it
        model, loading = AutoModel.from_pretrained(
            source.name,
            config=_encoder_alone(config),
            dtype=torch.float32,
            local_files_only=source.local_only,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    missing = sorted(set(loading["missing_keys"]) - {_MASK_VECTOR})
    mismatched = sorted(str(key[0]) for key in loading["mismatched_keys"])
    if missing or mismatched:
        what = "lacks" if missing else "has other shapes for"
        keys = missing or mismatched
        raise UserError(
            f"The weights in {source} do not fit its config.json: it {what} {len(keys)} of the "
            f"encoder's tensors ({keys[0]}{', ...' if len(keys) > 1 else ''})."
        )
    left_over = sorted(loading["unexpected_keys"])
    blocks = {int(found[1]) for key in left_over if (found := _BLOCK.search(key))}
    if blocks and max(blocks) >= config.num_hidden_layers:
        raise UserError(
            f"The weights in {source} do not fit its config.json: they have {max(blocks) + 1} "
            f"blocks, and num_hidden_layers is {config.num_hidden_layers}."
        )
    if left_over:
        logger.debug(f"{source}: left over, not of the encoder: {', '.join(left_over)}")
    return model.eval()


def reads_normalized(source: Source, config: Any) -> bool:
    """Return whether the encoder expects each utterance at zero mean and unit variance.

    Raises:
        UserError: The encoder reads audio at another rate than 16 kHz, or its file is wrong.
    """
    from transformers.utils import cached_file

    with _readable(source):
        path = cached_file(
            source.name,
            "preprocessor_config.json",
            local_files_only=source.local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        settings = json.loads(Path(path).read_text()) if path else None
    if settings is not None:
        said = settings.get("do_normalize", True) if isinstance(settings, dict) else None
        if not isinstance(said, bool):
            raise UserError(f"{path} is wrong: expected an object with do_normalize true or false.")
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{source} reads audio at {rate} Hz; Auscult works at {SAMPLE_RATE}.")
        return said
    normalize = getattr(config, "feat_extract_norm", "layer") == "layer"
    if not Path(source.name).is_relative_to(WEIGHTS):  # those were trained as goes with the norm
        logger.info(
            f"{source} has no preprocessor_config.json: utterances are "
            f"{'normalised' if normalize else 'read as they are'}, as goes with its extractor's "
            "norm."
        )
    return normalize


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
    """Turn the many errors about what is not there or not readable into one sentence."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except pickle.UnpicklingError as error:
        raise UserError(
            f"The weights in {source} hold more than tensors, and code from files is not run; "
            "convert them to safetensors where you trust them."
        ) from error
    except (OSError, ValueError, EOFError, RuntimeError, SafetensorError) as error:
        raise UserError(f"hf cannot read {source}: {_first_line(error)}") from error
    except StrictDataclassError as error:  # its cause says what was expected and what came
        reason = _first_line(error.__cause__ or error)
        raise UserError(f"hf cannot read {source}: its config.json is wrong: {reason}") from error
    except (ArithmeticError, LookupError, TypeError) as error:  # of transformers, at odd values
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise UserError(
            f"hf cannot read {source}: transformers cannot build what its config.json says "
            f"({reason})."
        ) from error


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
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
