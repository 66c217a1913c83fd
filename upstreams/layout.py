"""How libraries name the tensors of HuBERT, wav2vec 2.0 and WavLM, and what transformers does.

Names may stand behind any prefix, as where the encoder is a part of a larger model: SpeechBrain's
``model.``, ESPnet's ``frontend.upstream.upstream.model.``, a model with a head, a wrapper's
``module.``.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from auscult.errors import UserError
from auscult.progress import logger

from .weight import plain_names

CONV = "feature_extractor.conv_layers"
POSITION = "encoder.pos_conv_embed.conv"
BATCH_NORM = "encoder.pos_conv_embed.batch_norm.weight"
ADAPTED = "encoder.layers.0.adapter_layer.linear_1.weight"  # of MMS, in each block
POSITION_BIAS = "encoder.layers.0.attention.rel_attn_embed.weight"  # of WavLM alone
MASK_VECTOR = "masked_spec_embed"
_FEED_FORWARD = r"encoder.layers.\1.feed_forward"
_TENSOR = "(weight|bias)"
_GATED = r"encoder.layers.\1.attention.gru_rel_pos"


@dataclass(frozen=True, slots=True)
class Layout:
    """How a library names the tensors of an encoder."""

    library: str
    first: str  # the first convolution, whatever stands before its name
    mark: str  # a tensor that no other layout with this first one has
    encoder: tuple[tuple[str, str], ...]  # pattern of a name, and the same in transformers
    heads: str  # pattern of the names of pretraining heads, which are counted and left out
    mask: str = ""  # the mask vector, where it stands outside of the encoder


@dataclass(slots=True)
class Sorted:
    """The tensors of a file."""

    layout: Layout
    prefix: str  # of the encoder's names
    encoder: dict[str, Tensor] = field(default_factory=dict)  # under transformers' names
    heads: dict[str, Tensor] = field(default_factory=dict)  # of pretraining, under their own
    left_over: list[str] = field(default_factory=list)  # of a larger model around the encoder


FAIRSEQ = Layout(
    library="fairseq",
    first="feature_extractor.conv_layers.0.0.weight",
    mark="feature_extractor.conv_layers.0.0.weight",
    encoder=(
        (rf"feature_extractor\.conv_layers\.(\d+)\.0\.{_TENSOR}", rf"{CONV}.\1.conv.\2"),
        (rf"feature_extractor\.conv_layers\.0\.2\.{_TENSOR}", rf"{CONV}.0.layer_norm.\1"),
        (rf"feature_extractor\.conv_layers\.(\d+)\.2\.1\.{_TENSOR}", rf"{CONV}.\1.layer_norm.\2"),
        (rf"layer_norm\.{_TENSOR}", r"feature_projection.layer_norm.\1"),
        (rf"post_extract_proj\.{_TENSOR}", r"feature_projection.projection.\1"),
        (r"encoder\.pos_conv\.0\.(.*)", rf"{POSITION}.\1"),
        (rf"encoder\.layer_norm\.{_TENSOR}", r"encoder.layer_norm.\1"),
        (
            r"encoder\.layers\.(\d+)\.self_attn\.relative_attention_bias\.weight",
            r"encoder.layers.\1.attention.rel_attn_embed.weight",
        ),
        (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.(.*)", rf"{_GATED}_linear.\2"),
        (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", rf"{_GATED}_const"),
        (r"encoder\.layers\.(\d+)\.self_attn\.(.*)", r"encoder.layers.\1.attention.\2"),
        (r"encoder\.layers\.(\d+)\.self_attn_(layer_norm\..*)", r"encoder.layers.\1.\2"),
        (r"encoder\.layers\.(\d+)\.(final_layer_norm\..*)", r"encoder.layers.\1.\2"),
        (r"encoder\.layers\.(\d+)\.fc1\.(.*)", rf"{_FEED_FORWARD}.intermediate_dense.\2"),
        (r"encoder\.layers\.(\d+)\.fc2\.(.*)", rf"{_FEED_FORWARD}.output_dense.\2"),
        (r"mask_emb", MASK_VECTOR),
    ),
    heads=r"(quantizer|project_q|final_proj|target_glu|output_layer)\..*|label_embs_concat"
    r"|w2v_encoder\.proj\..*",
)
FAIRSEQ_BATCH_NORM = replace(  # in front of the positional convolution
    FAIRSEQ,
    mark="encoder.pos_conv.1.weight",
    encoder=(
        (r"encoder\.pos_conv\.0\.(.*)", r"encoder.pos_conv_embed.batch_norm.\1"),
        (r"encoder\.pos_conv\.1\.(.*)", rf"{POSITION}.\1"),
        *FAIRSEQ.encoder,
    ),
)
TORCHAUDIO = Layout(
    library="torchaudio",
    first="feature_extractor.conv_layers.0.conv.weight",
    mark="encoder.feature_projection.projection.weight",
    encoder=(
        (r"(feature_extractor\..*)", r"\1"),
        (r"encoder\.(feature_projection\..*)", r"\1"),
        (r"encoder\.transformer\.(.*\.attention\.)attention\.(out_proj\..*)", r"encoder.\1\2"),
        (r"encoder\.transformer\.(.*)", r"encoder.\1"),
    ),
    heads=r"aux\..*|(.*\.)?logit_generator\..*",
    mask="mask_generator.mask_embedding",
)
TRANSFORMERS = Layout(
    library="transformers",
    first=TORCHAUDIO.first,
    mark="feature_projection.projection.weight",
    encoder=((rf"((feature_extractor|feature_projection|encoder)\..*|{MASK_VECTOR})", r"\1"),),
    heads=r"(adapter|quantizer|project_hid|project_q|lm_head|final_proj|label_embs_concat)(\..*)?",
)
LAYOUTS = (FAIRSEQ_BATCH_NORM, FAIRSEQ, TORCHAUDIO, TRANSFORMERS)


def sort_weights(
    path: Path, stored: Mapping[str, Any], layouts: tuple[Layout, ...] = LAYOUTS
) -> Sorted:
    """Find the encoder among named tensors.

    Raises:
        UserError: None of these layouts, several encoders, or an entry that is neither of the
            encoder, nor of a known head, nor outside of the encoder in a larger model.
    """
    found = _find(path, [str(name) for name in stored], layouts)
    unknown: list[str] = []
    for stored_name, tensor in stored.items():
        name = str(stored_name)
        bare, outside = name.removeprefix(found.prefix), not name.startswith(found.prefix)
        renamed = _rename(bare, found.layout, outside)
        if not isinstance(tensor, Tensor):
            (found.left_over if outside else unknown).append(name)
        elif renamed is not None:
            found.encoder[renamed] = tensor
        elif re.fullmatch(found.layout.heads, bare):
            found.heads[bare] = tensor
        else:
            (found.left_over if outside else unknown).append(name)
    if unknown:
        listed = ", ".join(f"{name:.100}" for name in sorted(unknown)[:3]) + (
            ", ..." if len(unknown) > 3 else ""
        )
        raise UserError(
            f"{path} holds {len(unknown)} entries that are neither of a HuBERT, wav2vec 2.0 or "
            f"WavLM encoder nor of a pretraining head that Auscult knows: {listed}."
        )
    if found.left_over:
        logger.info(
            f"{path}: {len(found.left_over)} entries outside of the encoder "
            f"({found.prefix:.100}...) are left out, such as {found.left_over[0]:.100}."
        )
    found.encoder = _as_transformers(found.encoder)
    return found


def _find(path: Path, names: list[str], layouts: tuple[Layout, ...]) -> Sorted:
    known = set(names)
    for layout in layouts:
        prefixes = {
            name.removesuffix(layout.first)
            for name in names
            if name.endswith(layout.first) and name.removesuffix(layout.first)[-1:] in ("", ".")
        }
        prefixes = {prefix for prefix in prefixes if f"{prefix}{layout.mark}" in known}
        if len(prefixes) > 1:
            raise UserError(
                f"{path} holds {len(prefixes)} encoders, whose names begin with "
                f"{' and '.join(f'{x:.100}' or 'nothing' for x in sorted(prefixes)[:4])}; save the "
                "state_dict of the one that is meant."
            )
        if prefixes:
            prefix = prefixes.pop()
            bare = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            if other := _read_elsewhere(bare, re.match):
                raise UserError(f"{path} {other}")
            return Sorted(layout, prefix)
    raise UserError(f"{path} {_read_elsewhere(names, re.search) or _unknown(names)}")


def _read_elsewhere(names: list[str], find: Callable[[str, str], object]) -> str:
    """Say of which encoder with like names these are, and what reads it; empty of none."""
    short = [name[:500] for name in names]  # patterns take their time over a stranger's
    found = (what for pattern, what in _ELSEWHERE if any(find(pattern, name) for name in short))
    return next(found, "")


def _unknown(names: list[str]) -> str:
    listed = (
        ", ".join(f"{name:.100}" for name in names[:3]) + (", ..." if len(names) > 3 else "")
        or "nothing"
    )
    return (
        f"has no {' or '.join(sorted({layout.first for layout in LAYOUTS}))}: it holds neither "
        "HuBERT nor wav2vec 2.0 nor WavLM as fairseq, s3prl, torchaudio or transformers store "
        f"them, but {listed}. A whole model of transformers is read from the folder that "
        "save_pretrained writes: hf:FOLDER."
    )


_BY_FOLDER = "save it with save_pretrained, whose config.json says its sizes, and write hf:FOLDER."
_ELSEWHERE = (
    (
        r".*\.(lora_[AB]|base_layer)\.",
        "holds an encoder with an adapter of PEFT beside it: merge the two (merge_and_unload) and "
        "save the whole model.",
    ),
    (
        r"encoder\.pos_conv\.0\.0\.weight$",
        "holds data2vec of fairseq: write s3prl:data2vec_local:FILE.",
    ),
    (r"encoder\.pos_conv_embed\.layers\.", f"holds transformers' data2vec: {_BY_FOLDER}"),
    (r"encoder\.layers\.0\.conv_module\.", f"holds a conformer of transformers: {_BY_FOLDER}"),
    (
        r"input_representations\.spec_transform",
        "holds Mockingjay or Audio ALBERT without its configuration: name the file that s3prl's "
        "training wrote, mockingjay:FILE or audio_albert:FILE.",
    ),
    (
        r"encoder\.(contrastive|masked_prediction)\.0\.",
        "holds a w2v-BERT of 2021: write w2v_bert:FILE, and keep its config.json beside it.",
    ),
)


def _as_transformers(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that are stored in another form the one that transformers has.

    Those are maps of queries, keys and values in one, as in torchaudio's WavLM, and a positional
    convolution whose weight norm was removed.
    """
    weights = plain_names(weights)
    joined = [name for name in weights if ".attention.attention.in_proj_" in name]
    for name in joined:
        start, _, kind = name.rpartition("attention.in_proj_")
        if weights[name].ndim and len(weights[name]) % 3 == 0:
            for part, tensor in zip("qkv", torch.chunk(weights.pop(name), 3), strict=True):
                weights[f"{start}{part}_proj.{kind}"] = tensor
    plain = weights.get(f"{POSITION}.weight")
    if plain is not None and plain.ndim == 3 and BATCH_NORM not in weights:
        norm = torch.linalg.vector_norm(plain.float(), dim=(0, 1), keepdim=True)
        weights[f"{POSITION}.parametrizations.weight.original0"] = norm
        weights[f"{POSITION}.parametrizations.weight.original1"] = weights.pop(f"{POSITION}.weight")
    return weights


def _rename(name: str, layout: Layout, outside: bool) -> str | None:
    if outside:
        return MASK_VECTOR if layout.mask and name.endswith(layout.mask) else None
    for pattern, wanted in layout.encoder:
        if found := re.fullmatch(pattern, name):
            return found.expand(wanted)
    return None
