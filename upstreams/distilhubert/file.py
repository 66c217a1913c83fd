"""DistilHuBERT's checkpoint as s3prl's Distiller stores it, written from transformers' encoder."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from auscult.snapshot import write_archive

from .distiller import PredictionHeads

_RENAMED = (  # transformers' names and s3prl's, the first that fits
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_extractor\.conv_layers\.0\.layer_norm\.", "feature_extractor.conv_layers.0.2."),
    (r"feature_projection\.projection\.", "post_extract_proj."),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "@weight_g"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "@weight_v"),
    (r"encoder\.pos_conv_embed\.conv\.bias", "@bias"),
    (r"(encoder\.layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"(encoder\.layers\.\d+)\.layer_norm\.", r"\1.self_attn_layer_norm."),
    (r"(encoder\.layers\.\d+)\.feed_forward\.intermediate_dense\.", r"\1.fc1."),
    (r"(encoder\.layers\.\d+)\.feed_forward\.output_dense\.", r"\1.fc2."),
)
_UNUSED = "masked_spec_embed"  # the Distiller hides nothing


def write_distiller(path: Path, model: Any, heads: PredictionHeads) -> None:
    """Write encoder and heads for ``distilhubert:FILE`` and s3prl's ``distiller_local``.

    The file appears whole.

    Args:
        path: The file.
        model: transformers' HuBERT without a layer norm before its projection.
        heads: Its predictions.
    """
    weights = {
        _rename(name): tensor.detach().float().cpu()
        for name, tensor in model.state_dict().items()
        if name != _UNUSED
    }
    weights |= _as_stored(
        {n: tensor.detach().float().cpu() for n, tensor in heads.state_dict().items()}
    )
    content = {"Distiller": weights, "Config": {"distiller": _describe(model.config, heads)}}
    write_archive(content, path)


def _as_stored(heads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the heads as s3prl has them, which makes a plain linear map of a single one."""
    last = "output_layer.2"
    if len(heads[f"{last}.weight"]) > 1:
        return heads
    weight, bias = heads.pop(f"{last}.weight"), heads.pop(f"{last}.bias")
    return heads | {f"{last}.layer.weight": weight[0].T, f"{last}.layer.bias": bias.flatten()}


def _rename(name: str) -> str:
    for pattern, wanted in _RENAMED:
        renamed, times = re.subn(f"^{pattern}", wanted, name)
        if times:
            return renamed.replace("@", "encoder.pos_conv.0.")
    return name


def _describe(config: Any, heads: PredictionHeads) -> dict[str, Any]:
    """Return the options that s3prl and Auscult read the shape from."""
    predictions, inner, predicted = heads.get_parameter("output_layer.2.weight").shape
    convolutions = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    return {
        "extractor_mode": "default",
        "extractor_conv_feature_layers": str(list(convolutions)),
        "extractor_dropout": 0.0,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "activation_fn": "gelu",
        "layer_norm_first": False,
        "attention_type": "original",
        "dropout": config.hidden_dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "encoder_layerdrop": config.layerdrop,
        "final_dim": predicted,
        "out_layer_type": "expand-last",
        "out_layer_inter_dim": inner,
        "n_tasks": predictions,
        "task_emb_type": "expand-last",
        "loss_type": "l1",
        "cosine_loss": 1.0,
        "pred_layer_id": list(heads.teacher_layers),
    }
