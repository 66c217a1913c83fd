"""HuBERT, wav2vec 2.0, WavLM and DistilHuBERT from the files in which libraries store them.

All become transformers' encoders. Whether utterances are normalised, the extractor's norm and the
place of layer norms in a block are read from the file; where it does not say, they go with the
extractor's norm, as fairseq requires and all published models have it, and a note says so. A bare
state dict says nothing but its tensors; the rest of it is taken from the options of its address,
or else from the published models of its width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from auscult.address import Address, place
from auscult.checkpoint import read_checkpoint
from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError, quoted
from auscult.progress import logger
from auscult.upstream import Upstream

from . import front_end
from .bare import check_choices, describe_bare, read_choices
from .conversion import (
    NORMS,
    fill_model,
    parse_convolutions,
    plain_options,
    read_activation,
    read_options,
    read_sizes,
    write_config,
)
from .distilhubert.distiller import describe_distiller, split_distiller
from .hub import WHOLE_MODELS, find_source, read_config
from .huggingface.upstream import HuggingFaceUpstream
from .huggingface.upstream import load as load_folder
from .layout import (
    FAIRSEQ,
    FAIRSEQ_BATCH_NORM,
    POSITION_BIAS,
    TRANSFORMERS,
    Sorted,
    sort_weights,
)

EPSILON = 1e-5  # fairseq, s3prl and torchaudio normalise utterances by torch's layer_norm
_TITLES = {
    "hubert": "HuBERT",
    "wav2vec2": "wav2vec 2.0",
    "wavlm": "WavLM",
    "distilhubert": "DistilHuBERT",
}
_CONVOLUTIONS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)  # fairseq's default
_SIZES = {  # fairseq's names and transformers'
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "conv_bias": "conv_bias",
    "conv_pos_batch_norm": "conv_pos_batch_norm",
}
_PLAIN = {  # variants of fairseq that transformers' encoders do not have
    "layer_type": "transformer",
    "pos_conv_depth": 1,
    "quantize_input": False,
    "crop_seq_to_multiple": 1,
}
_MARKS = {"hubert": ("label_embs_concat",), "wav2vec2": ("quantizer.", "project_q.")}
_OF_PREFIX = {  # transformers' names of an encoder inside a larger model
    "hubert": "hubert",
    "wav2vec2": "wav2vec2",
    "unispeech": "wav2vec2",  # whose encoder is wav2vec 2.0's
    "unispeech_sat": "wav2vec2",
    "wavlm": "wavlm",
}
_SUPERNETS = ("hubert_pruner", "student_hubert")
_TABLES = ("state_dict", "model", "model_state_dict", "module", "net", "weights", "params")


@dataclass(frozen=True, slots=True)
class Found:
    """An encoder in a file, in transformers' terms."""

    stored: Sorted
    said: dict[str, Any] | None  # of the configuration, beside the tensors; None of a state dict
    normalize: bool | None  # None where the file does not say


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a file or folder; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: Nothing there, another family or variant, or weights that do not fit.
    """
    family = address.family
    if not address.checkpoint:
        raise UserError(f"{family} needs a file or folder, such as {family}:/models/{family}.pt.")
    path = place(address.checkpoint)
    if path.is_dir():
        return _load_folder(address, seed)
    if not path.exists():
        raise UserError(
            f"{address}: there is no file or folder {path}; models of the hub are read by hf and "
            "their id."
        )
    choices = read_choices(address)
    found = find_encoder(path, family)
    stored = found.stored
    sizes = read_sizes(path, stored.encoder)
    said = found.said
    if said is None:
        said = describe_bare(path, address, stored.layout.library, sizes, choices)
    check_choices(path, choices, said, found.normalize)
    config = write_config(path, _model_type(family, sizes), sizes, said)
    normalize = found.normalize if choices.normalize is None else choices.normalize
    if normalize is None:
        normalize = config.feat_extract_norm == "layer"
        logger.info(
            f"{path} does not say whether utterances are normalised: they are "
            f"{'normalised' if normalize else 'read as they are'}, as goes with its extractor's "
            f"{config.feat_extract_norm} norm."
        )
    return HuggingFaceUpstream(
        fill_model(path, config, stored.encoder, seed if address.random else None),
        name=str(address),
        source=str(path),
        normalize=normalize,
        epsilon=front_end.EPSILON if stored.layout is TRANSFORMERS else EPSILON,
        head_parameters=sum(tensor.numel() for tensor in stored.heads.values()),
    )


def _model_type(family: str, sizes: Mapping[str, Any]) -> str:
    """Return which of transformers' encoders holds the weights."""
    if family == "wav2vec2" and not sizes["conv_pos_batch_norm"]:
        return "wav2vec2"
    return "wavlm" if family == "wavlm" else "hubert"  # which can all that wav2vec 2.0 can


def find_encoder(path: Path, family: str) -> Found:
    """Read a file of any of the layouts and return the encoder of ``family`` in it.

    Raises:
        UserError: Unreadable, of another layout or another family.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping):
        raise UserError(f"{path}: expected a checkpoint's dict, got a {type(content).__name__}.")
    if "Distiller" in content:
        _check_family(path, family, "distilhubert", "it holds a Distiller")
        return _of_distiller(path, content)
    if family == "distilhubert":
        raise UserError(
            f"{path} is not a checkpoint of s3prl's Distiller: it lacks Distiller and Config."
        )
    if "model_weight" in content:
        model = read_options(path, "model_cfg", content.get("model_cfg"))
        task = read_options(path, "task_cfg", content.get("task_cfg"))
        return _of_fairseq(path, family, model, task, content["model_weight"])
    given = [content[name] for name in ("cfg", "args") if _says(content.get(name))]
    if "model" in content and given:
        options = read_options(path, "cfg or args", given[0])
        if "model" in options:
            model = read_options(path, "cfg.model", options["model"])
            said = options.get("task")
            task = read_options(path, "cfg.task", said if _says(said) else {})
        else:
            model = task = options
        return _of_fairseq(path, family, model, task, content["model"])
    tables = [content, *(content[name] for name in _TABLES if name in content)]
    tables = [x for x in tables if isinstance(x, Mapping) and _holds_tensors(x)]
    if not tables:
        raise UserError(
            f"{path} is no checkpoint of fairseq (cfg or args, model), s3prl (model_cfg, "
            "model_weight; Config, Distiller), nor a state_dict of theirs, torchaudio or "
            f"transformers: it holds "
            f"{', '.join(f'{name!s:.60}' for name in list(content)[:8]) or 'nothing'}."
        )
    return _of_state_dict(path, family, max(tables, key=len))


def _says(value: object) -> bool:
    """Say whether there is something in an entry of a checkpoint; a tensor has no truth value."""
    return value is not None and not (isinstance(value, str | Mapping | Sequence) and not value)


def _holds_tensors(table: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, Tensor) for value in table.values())


def _load_folder(address: Address, seed: int) -> Upstream:
    """Read a folder as ``hf`` does, if it holds the family that was asked for."""
    if address.options:
        raise UserError(f"{address}: the folder's config.json says it all; leave the options out.")
    config = read_config(find_source(address.checkpoint))
    family: str = config.model_type
    if family == "hubert" and not config.feat_proj_layer_norm:
        family = "distilhubert"
    if family != address.family:
        raise UserError(
            f"{address}: {address.checkpoint} holds {_TITLES.get(family, family)}, not "
            f"{_TITLES[address.family]}; write hf:{address.checkpoint}."
        )
    return load_folder(address, seed)


def _of_distiller(path: Path, content: Mapping[Any, Any]) -> Found:
    options, weights = split_distiller(path, content)
    stored = sort_weights(path, weights, (FAIRSEQ,))
    return Found(stored, describe_distiller(path, plain_options(path, options)), normalize=False)


def _of_fairseq(
    path: Path, family: str, model: Mapping[str, Any], task: Mapping[str, Any], stored: Any
) -> Found:
    """Read what fairseq stores, also after fine-tuning, and what s3prl makes of it."""
    task = plain_options(path, task)
    normalize = _flag(path, "normalize", task.get("normalize", model.get("normalize")))
    rate = task.get("sample_rate", SAMPLE_RATE)
    if "w2v_args" in model:  # fine-tuned: the options of the encoder are those of pretraining
        inner = read_options(path, "w2v_args", model["w2v_args"])
        model = read_options(path, "w2v_args.model", inner["model"]) if "model" in inner else inner
    model = plain_options(path, model)
    tensors = read_options(path, "model", stored)
    _check_name(path, family, model)
    if rate is not None and rate != SAMPLE_RATE:
        raise UserError(f"{path} reads audio at {quoted(rate)} Hz; Auscult works at {SAMPLE_RATE}.")
    found = sort_weights(path, tensors, (FAIRSEQ_BATCH_NORM, FAIRSEQ))
    _check_marks(path, family, found)
    return Found(found, describe_fairseq(path, model, gated=family == "wavlm"), normalize)


def _of_state_dict(path: Path, family: str, stored: Mapping[Any, Any]) -> Found:
    """Read a state dict that has no configuration beside its tensors."""
    if path.name in WHOLE_MODELS and (path.parent / "config.json").is_file():
        raise UserError(
            f"{path} lies beside a config.json, which says what its tensors do not: name their "
            f"folder, {family}:{path.parent}."
        )
    found = sort_weights(path, stored)
    part = found.prefix.rstrip(".").rpartition(".")[2]
    if found.layout is TRANSFORMERS and part in _OF_PREFIX:
        _check_family(path, family, _OF_PREFIX[part], f"its names begin with {found.prefix:.100}")
    _check_marks(path, family, found)
    return Found(found, None, normalize=None)


def _check_marks(path: Path, family: str, found: Sorted) -> None:
    """Refuse another family than the tensors of one alone show."""
    if POSITION_BIAS in found.encoder:
        _check_family(path, family, "wavlm", "it has relative positions")
    elif family == "wavlm":
        raise UserError(
            f"{path} holds no WavLM: it has no relative positions; write hubert:{path} or "
            f"wav2vec2:{path}."
        )
    for other, starts in _MARKS.items():
        if mark := next((name for name in found.heads if name.startswith(starts)), None):
            if family != "wavlm":  # whose heads, where there are some, are named like these
                _check_family(path, family, other, f"it holds {mark}")


def describe_fairseq(
    path: Path, options: Mapping[str, Any], *, gated: bool = False
) -> dict[str, Any]:
    """Return what fairseq's model options say of an encoder, as transformers names it.

    Args:
        path: The file, for messages.
        options: The options.
        gated: Whether it is WavLM, whose positions are relative and gated.

    Raises:
        UserError: A variant that transformers' encoders do not have.
    """
    plain = _PLAIN | ({"relative_position_embedding": True, "gru_rel_pos": True} if gated else {})
    for name, wanted in plain.items():
        if (value := options.get(name)) is not None and value != wanted:
            raise UserError(
                f"{path}: an encoder with {name}={quoted(value)} is not read, only {wanted}."
            )
    layers = options.get("conv_feature_layers") or _CONVOLUTIONS
    convolutions = parse_convolutions(path, layers)
    said = {new: options[old] for old, new in _SIZES.items() if options.get(old) is not None}
    if (mode := options.get("extractor_mode")) is not None:
        said["feat_extract_norm"] = NORMS.get(mode, mode) if isinstance(mode, str) else mode
    return said | {
        "conv_dim": [channels for channels, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "num_attention_heads": options.get("encoder_attention_heads") or 12,
        "do_stable_layer_norm": _flag(
            path, "layer_norm_first", options.get("layer_norm_first", False)
        ),
        "hidden_act": read_activation(path, options.get("activation_fn") or "gelu"),
        **({"max_bucket_distance": options.get("max_distance") or 1280} if gated else {}),
    }


def _flag(path: Path, name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {name} is {quoted(value)}; expected True or False.")
    return value


def _check_name(path: Path, family: str, options: Mapping[str, Any]) -> None:
    name = options.get("_name") or options.get("arch")
    if name is None:
        return
    if name in _SUPERNETS:
        raise UserError(f"{path} is a checkpoint of LightHuBERT; write lighthubert:{path}.")
    families = [known for known in ("hubert", "wav2vec2") if isinstance(name, str)]
    other = next((known for known in families if name.startswith(known)), None)
    if other is None:
        raise UserError(f"{path} holds fairseq's {quoted(name)}; hubert or wav2vec2 is read here.")
    _check_family(path, family, other, f"its configuration is that of {quoted(name)}")


def _check_family(path: Path, wanted: str, found: str, reason: str) -> None:
    if wanted != found:
        raise UserError(
            f"{path} is a checkpoint of {_TITLES[found]}, not {_TITLES[wanted]} ({reason}); write "
            f"{found}:{path}."
        )
