"""Tiny encoders: of every architecture that hf reads, as folders; of others, as they store them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

from auscult.bridge import hushed, repair

_SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
_CONV = {
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
_PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}


@dataclass(frozen=True)
class Architecture:
    """What to build, and whether its preprocessor normalises."""

    model_type: str
    settings: Mapping[str, Any]
    normalize: bool = False


ARCHITECTURES = {
    "hubert": Architecture("hubert", _SIZE | _CONV),
    "hubert_pre_norm": Architecture("hubert", _SIZE | _CONV | _PRE_NORM, normalize=True),
    "hubert_batch_norm": Architecture("hubert", _SIZE | _CONV | {"conv_pos_batch_norm": True}),
    "distilhubert": Architecture("hubert", _SIZE | _CONV | {"feat_proj_layer_norm": False}),
    "wav2vec2": Architecture("wav2vec2", _SIZE | _CONV),
    "wav2vec2_pre_norm": Architecture(
        "wav2vec2", _SIZE | _CONV | _PRE_NORM | {"conv_bias": True}, normalize=True
    ),
    "wavlm": Architecture("wavlm", _SIZE | _CONV),
    "wavlm_pre_norm": Architecture("wavlm", _SIZE | _CONV | _PRE_NORM, normalize=True),
    "data2vec": Architecture(
        "data2vec-audio",
        _SIZE | {"conv_dim": (16,) * 7, "num_conv_pos_embedding_groups": 4},
        normalize=True,
    ),
    "conformer_relative": Architecture(
        "wav2vec2-conformer",
        _SIZE | _CONV | {"position_embeddings_type": "relative", "feat_extract_norm": "layer"},
        normalize=True,
    ),
    "conformer_rotary": Architecture(
        "wav2vec2-conformer", _SIZE | _CONV | {"position_embeddings_type": "rotary"}
    ),
    "w2v_bert": Architecture("wav2vec2-bert", _SIZE, normalize=True),
    "unispeech": Architecture("unispeech", _SIZE | _CONV),
    "unispeech_sat": Architecture("unispeech-sat", _SIZE | _CONV | _PRE_NORM, normalize=True),
}


@dataclass(frozen=True)
class Tiny:
    """A folder with a tiny encoder, and the model that was saved there."""

    name: str
    folder: Path
    model: Any
    architecture: Architecture


def save_tiny(name: str, folder: Path, model_class: Any = AutoModel) -> Tiny:
    """Build an architecture with weights that are nowhere zero or one and save it."""
    architecture = ARCHITECTURES[name]
    config = AutoConfig.for_model(architecture.model_type, **architecture.settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = model_class.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    if architecture.model_type == "wav2vec2-bert":
        SeamlessM4TFeatureExtractor().save_pretrained(folder)
    else:
        extractor = Wav2Vec2FeatureExtractor(do_normalize=architecture.normalize)
        extractor.save_pretrained(folder)
    return Tiny(name, folder, model, architecture)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they bring to tensors this small, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=list(ARCHITECTURES))
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return save_tiny(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def architectures() -> Mapping[str, Architecture]:
    return ARCHITECTURES


@pytest.fixture
def hubert_folder(tmp_path: Path) -> Path:
    """A folder of its own to break: a tiny HuBERT under a CTC head."""
    from transformers import AutoModelForCTC

    save_tiny("hubert", tmp_path / "hubert", AutoModelForCTC)
    return tmp_path / "hubert"


# --- what fairseq, s3prl and torchaudio store ------------------------------------------------

_CONV_LAYERS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
_FAIRSEQ = {
    "conv_feature_layers": _CONV_LAYERS,
    "encoder_layers": 3,
    "encoder_embed_dim": 32,
    "encoder_ffn_embed_dim": 48,
    "encoder_attention_heads": 4,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "encoder_layerdrop": 0.1,
    "final_dim": 8,
}
_BASE = {"extractor_mode": "default", "layer_norm_first": False, "conv_bias": False}
_PRE = {"extractor_mode": "layer_norm", "layer_norm_first": True}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "base": _BASE,
    "large": _PRE | {"conv_bias": False},
    "large_lv60": _PRE | {"conv_bias": True},
    "group_pre_norm": _BASE | {"layer_norm_first": True, "conv_pos": 15},
    "layer_post_norm": _PRE | {"layer_norm_first": False, "activation_fn": "relu"},
}


def shaken(model: nn.Module, seed: int = 0) -> Any:
    """The model with weights that are nowhere zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def build_s3prl(family: str, **options: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """A tiny pretraining model of s3prl with the options of model and task that made it."""
    repair()
    with hushed():
        from s3prl.upstream.hubert import hubert_model as hubert
        from s3prl.upstream.wav2vec2 import wav2vec2_model as wav2vec2
    task = {"normalize": options["extractor_mode"] == "layer_norm", "sample_rate": 16_000}
    model = {"_name": family, **_FAIRSEQ, **options}
    own: Any = {
        "hubert": {"label_rate": 50.0},
        "wav2vec2": {"quantize_targets": True, "latent_vars": 5},
    }
    model |= own[family]
    plain = {name: value for name, value in model.items() if name != "_name"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if family == "hubert":
            built = hubert.HubertModel(
                hubert.HubertConfig(**plain),
                hubert.HubertPretrainingConfig(**task),
                [["a", "b", "c"]],
            )
        else:
            built = wav2vec2.Wav2Vec2Model(wav2vec2.Wav2Vec2Config(**plain))
    return shaken(built), model, task


def converted(family: str, variant: str) -> dict[str, Any]:
    """What s3prl's conversion of a fairseq checkpoint holds."""
    built, model, task = build_s3prl(family, **VARIANTS[variant])
    return {
        "task_cfg": task,
        "model_cfg": model,
        "model_weight": built.state_dict(),
        "dictionaries_symbols": [["a", "b", "c"]],
    }


_NORMS = {"group": "group_norm", "layer": "layer_norm"}


def torchaudio_options(norm: str, bias: bool, width: int = 128) -> dict[str, Any]:
    return {
        "extractor_mode": _NORMS[norm],
        "extractor_conv_layer_config": [(16, 10, 5)] + [(16, 3, 2)] * 4 + [(16, 2, 2)] * 2,
        "extractor_conv_bias": bias,
        "encoder_embed_dim": width,
        "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 16,
        "encoder_pos_conv_groups": 4,
        "encoder_num_layers": 2,
        "encoder_num_heads": min(width // 64, 16),
        "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 48,
        "encoder_ff_interm_dropout": 0.1,
        "encoder_dropout": 0.1,
        "encoder_layer_norm_first": norm == "layer",
        "encoder_layer_drop": 0.1,
    }


def build_torchaudio(norm: str, bias: bool, width: int = 128, labels: int | None = None) -> Any:
    from torchaudio.models import wav2vec2_model

    options = torchaudio_options(norm, bias, width)
    return shaken(wav2vec2_model(**options, aux_num_out=labels))


def distiller_options(**options: Any) -> dict[str, Any]:
    sizes = {name: value for name, value in _FAIRSEQ.items() if name != "conv_feature_layers"}
    return {
        **sizes,
        "extractor_conv_feature_layers": _CONV_LAYERS,
        "encoder_layers": 2,
        "final_dim": 24,
        "out_layer_type": "expand-last",
        "task_emb_type": "expand-last",
        "n_tasks": 3,
        "pred_layer_id": [4, 8, 12],
    } | options


def distilled(**options: Any) -> dict[str, Any]:
    """What s3prl's Distiller saves."""
    repair()
    with hushed():
        from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

        found = distiller_options(**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            model = shaken(DistillerModel(DistillerConfig(found)))
    config = {"distiller": found, "teacher": {"model": "hubert"}, "audio": {}}
    return {"Distiller": model.state_dict(), "Config": config, "Step": 9}


@pytest.fixture(scope="session")
def foreign() -> SimpleNamespace:
    """What others store of tiny encoders, each made by a function of its options."""
    return SimpleNamespace(
        variants=VARIANTS,
        shaken=shaken,
        s3prl=build_s3prl,
        converted=converted,
        torchaudio=build_torchaudio,
        distiller_options=distiller_options,
        distilled=distilled,
    )
