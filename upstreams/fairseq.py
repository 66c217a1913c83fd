"""HuBERT, wav2vec 2.0 and DistilHuBERT from the files of fairseq, s3prl and torchaudio.

All become transformers' encoders. Whether utterances are normalised, the extractor's norm and the
place of layer norms in a block are read from the file; where it does not say, they go with the
extractor's norm, as fairseq requires and all published models have it, and a note says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from auscult.address import Address
from auscult.checkpoint import read_checkpoint
from auscult.contracts import SAMPLE_RATE
from auscult.errors import UserError
from auscult.progress import logger
from auscult.upstream import Upstream

from . import huggingface
from .conversion import (
    FAIRSEQ,
    NORMS,
    TORCHAUDIO,
    fill_model,
    parse_convolutions,
    read_activation,
    read_options,
    read_sizes,
    sort_weights,
    write_config,
)
from .distiller import describe_distiller, split_distiller
from .hub import find_source, read_config

EPSILON = 1e-5  # fairseq, s3prl and torchaudio normalise utterances by torch's layer_norm
_TITLES = {"hubert": "HuBERT", "wav2vec2": "wav2vec 2.0", "distilhubert": "DistilHuBERT"}
_CONVOLUTIONS = ((512, 10, 5), *((512, 3, 2),) * 4, *((512, 2, 2),) * 2)  # fairseq's default
_SIZES = {  # fairseq's names and transformers'
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "conv_bias": "conv_bias",
}
_PLAIN = {  # variants of fairseq that transformers' encoders do not have
    "layer_type": "transformer",
    "pos_conv_depth": 1,
    "conv_pos_batch_norm": False,
    "quantize_input": False,
    "crop_seq_to_multiple": 1,
}
_MARKS = {"hubert": ("label_embs_concat",), "wav2vec2": ("quantizer.", "project_q.")}
_STRIDES = {10: 5, 3: 2, 2: 2}  # of the convolutions of all published models, by kernel


@dataclass(frozen=True, slots=True)
class Found:
    """An encoder in a file, in transformers' terms."""

    weights: dict[str, Tensor]
    others: dict[str, Tensor]  # pretraining heads
    said: dict[str, Any]  # of the configuration, beside what the tensors say
    normalize: bool | None  # None where the file does not say


def load(address: Address, seed: int) -> Upstream:
    """Read the encoder in a file or folder; inside ``random(...)`` keep only its shape.

    Raises:
        UserError: Nothing there, another family or variant, or weights that do not fit.
    """
    family = address.family
    if not address.checkpoint:
        raise UserError(f"{family} needs a file or folder, such as {family}:/models/{family}.pt.")
    path = Path(address.checkpoint).expanduser()
    if path.is_dir():
        return _load_folder(address, seed)
    if not path.exists():
        raise UserError(
            f"{address}: there is no file or folder {path}; models of the hub are read by hf and "
            "their id."
        )
    found = find_encoder(path, family)
    sizes = read_sizes(path, found.weights)
    model_type = "wav2vec2" if family == "wav2vec2" else "hubert"
    config = write_config(path, model_type, sizes, found.said)
    normalize = found.normalize
    if normalize is None:
        normalize = config.feat_extract_norm == "layer"
        logger.info(
            f"{path} does not say whether utterances are normalised: they are "
            f"{'normalised' if normalize else 'read as they are'}, as goes with its extractor's "
            f"{config.feat_extract_norm} norm."
        )
    return huggingface.HuggingFaceUpstream(
        fill_model(path, config, found.weights, seed if address.random else None),
        name=str(address),
        source=str(path),
        normalize=normalize,
        epsilon=EPSILON,
        head_parameters=sum(tensor.numel() for tensor in found.others.values()),
    )


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
    if "model" in content and (content.get("cfg") or content.get("args")):
        options = read_options(path, "cfg or args", content.get("cfg") or content.get("args"))
        if "model" in options:
            model = read_options(path, "cfg.model", options["model"])
            task = read_options(path, "cfg.task", options.get("task") or {})
        else:
            model = task = options
        return _of_fairseq(path, family, model, task, content["model"])
    stored = content.get("state_dict", content)
    if isinstance(stored, Mapping) and any(isinstance(value, Tensor) for value in stored.values()):
        return _of_torchaudio(path, stored)
    raise UserError(
        f"{path} is no checkpoint of fairseq (cfg or args, model), s3prl (model_cfg, model_weight; "
        f"Config, Distiller) or torchaudio (a state_dict): it holds "
        f"{', '.join(sorted(str(name) for name in content)[:8]) or 'nothing'}."
    )


def _load_folder(address: Address, seed: int) -> Upstream:
    """Read a folder as ``hf`` does, if it holds the family that was asked for."""
    config = read_config(find_source(address.checkpoint))
    family: str = config.model_type
    if family == "hubert" and not config.feat_proj_layer_norm:
        family = "distilhubert"
    if family != address.family:
        raise UserError(
            f"{address}: {address.checkpoint} holds {_TITLES.get(family, family)}, not "
            f"{_TITLES[address.family]}; write hf:{address.checkpoint}."
        )
    return huggingface.load(address, seed)


def _of_distiller(path: Path, content: Mapping[Any, Any]) -> Found:
    options, stored = split_distiller(path, content)
    weights, others = sort_weights(path, stored, FAIRSEQ)
    return Found(weights, others, describe_distiller(path, options), normalize=False)


def _of_fairseq(
    path: Path, family: str, model: Mapping[str, Any], task: Mapping[str, Any], stored: Any
) -> Found:
    """Read what fairseq stores, also after fine-tuning, and what s3prl makes of it."""
    for name, value in {**task, **model}.items():
        if isinstance(value, Tensor):
            raise UserError(f"{path}: the option {name} is a tensor; expected a plain value.")
    normalize = _flag(path, "normalize", task.get("normalize", model.get("normalize")))
    rate = task.get("sample_rate", SAMPLE_RATE)
    if "w2v_args" in model:  # fine-tuned: the options of the encoder are those of pretraining
        inner = read_options(path, "w2v_args", model["w2v_args"])
        model = read_options(path, "w2v_args.model", inner["model"]) if "model" in inner else inner
    tensors = read_options(path, "model", stored)
    _check_name(path, family, model)
    for other, starts in _MARKS.items():
        if mark := next((name for name in tensors if name.startswith(starts)), None):
            _check_family(path, family, other, f"it holds {mark}")
    if rate not in (None, SAMPLE_RATE):
        raise UserError(f"{path} reads audio at {rate} Hz; Auscult works at {SAMPLE_RATE}.")
    weights, others = sort_weights(path, tensors, FAIRSEQ)
    said = describe_fairseq(path, model)
    return Found(weights, others, said, normalize)


def describe_fairseq(path: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fairseq's model options say of an encoder, as transformers names it.

    Raises:
        UserError: A variant that transformers' encoders do not have.
    """
    for name, plain in _PLAIN.items():
        if (value := options.get(name)) not in (None, plain):
            raise UserError(f"{path}: an encoder with {name}={value!r} is not read, only {plain}.")
    layers = options.get("conv_feature_layers") or _CONVOLUTIONS
    convolutions = parse_convolutions(path, layers)
    said = {new: options[old] for old, new in _SIZES.items() if options.get(old) is not None}
    if (mode := options.get("extractor_mode")) is not None:
        said["feat_extract_norm"] = NORMS.get(str(mode), mode)
    return said | {
        "conv_dim": [channels for channels, _, _ in convolutions],
        "conv_kernel": [kernel for _, kernel, _ in convolutions],
        "conv_stride": [stride for _, _, stride in convolutions],
        "num_attention_heads": options.get("encoder_attention_heads") or 12,
        "do_stable_layer_norm": _flag(
            path, "layer_norm_first", options.get("layer_norm_first", False)
        ),
        "hidden_act": read_activation(path, options.get("activation_fn") or "gelu"),
    }


def _of_torchaudio(path: Path, stored: Mapping[Any, Any]) -> Found:
    """Read a state dict of torchaudio, which has no configuration beside its tensors."""
    weights, others = sort_weights(path, stored, TORCHAUDIO)
    sizes = read_sizes(path, weights)
    if unknown := set(sizes["conv_kernel"]) - set(_STRIDES):
        raise UserError(
            f"{path} has a convolution with a kernel of {unknown.pop()}, and no configuration that "
            "says its stride; only the kernels 10, 3 and 2 of the published models are read."
        )
    width = sizes["hidden_size"]
    heads = min(max(width // 64, 1), 16)
    pre_norm = sizes["feat_extract_norm"] == "layer"
    logger.info(
        f"{path} is a state dict of torchaudio, which does not say how many heads there are and "
        f"where its blocks normalise: taken are {heads} for a width of {width} and, with its "
        f"{sizes['feat_extract_norm']}-norm extractor, {'pre' if pre_norm else 'post'}-norm "
        "blocks, as in all published models."
    )
    said = {
        "conv_stride": [_STRIDES[kernel] for kernel in sizes["conv_kernel"]],
        "num_attention_heads": heads,
        "do_stable_layer_norm": pre_norm,
    }
    return Found(weights, others, said, normalize=None)


def _flag(path: Path, name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {name} is {value!r}; expected True or False.")
    return value


def _check_name(path: Path, family: str, options: Mapping[str, Any]) -> None:
    name = options.get("_name") or options.get("arch")
    if name is None:
        return
    other = next((known for known in ("hubert", "wav2vec2") if str(name).startswith(known)), None)
    if other is None:
        raise UserError(f"{path} holds fairseq's {name!r}; hubert or wav2vec2 is read here.")
    _check_family(path, family, other, f"its configuration is that of {name!r}")


def _check_family(path: Path, wanted: str, found: str, reason: str) -> None:
    if wanted != found:
        raise UserError(
            f"{path} is a checkpoint of {_TITLES[found]}, not {_TITLES[wanted]} ({reason}); write "
            f"{found}:{path}."
        )
