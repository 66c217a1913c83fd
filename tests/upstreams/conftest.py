"""Tiny encoders of every architecture that hf reads, saved as folders and read back from there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)

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
