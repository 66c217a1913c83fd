"""Multiply-accumulates against torch's own counter, and the parameters of pretraining heads."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForPreTraining

import auscult
from auscult import bridge
from auscult.testing import noise
from auscult.upstream import Upstream
from auscult.upstreams import SHAPES, load_upstream, outline_upstream
from auscult.upstreams.hub import build_model
from auscult.upstreams.huggingface.upstream import HuggingFaceUpstream, build_config

SAMPLES = (400, 5123, 7680)  # one frame; frames odd and even in number

# Settings of published encoders that the shapes with names leave out.
VARIANTS = {
    "w2v_bert_relative": ("w2v_bert", {"position_embeddings_type": "relative"}),
    "w2v_bert_rotary": ("w2v_bert", {"position_embeddings_type": "rotary"}),
    "w2v_bert_plain": ("w2v_bert", {"position_embeddings_type": None}),
    "conformer_plain": ("conformer_relative", {"position_embeddings_type": None}),
    "adapters_of_mms": ("wav2vec2_pre_norm", {"adapter_attn_dim": 8}),
    "adapters_unused": ("wav2vec2", {"adapter_attn_dim": 8}),  # post-norm blocks have none
    "odd_positional_kernel": ("hubert", {"num_conv_pos_embeddings": 15}),
    "even_kernels_of_data2vec": ("data2vec", {"conv_pos_kernel_size": 18}),
    "short_extractor": (
        "hubert",
        {
            "num_feat_extract_layers": 2,
            "conv_dim": (8, 24),
            "conv_kernel": (7, 4),
            "conv_stride": (5, 3),
        },
    ),
}


def counted_by_torch(upstream: Any, samples: int) -> int:
    """Return half the floating-point operations of convolutions and products in one pass.

    Attention is computed eagerly: on a CPU the counter does not see into the fused kernel.
    """
    upstream.model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        upstream(noise(upstream, [samples]))
    flops: int = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


def assert_counted(upstream: Upstream) -> None:
    for samples in SAMPLES:
        if samples < upstream.least_samples():
            continue
        assert upstream.count_macs(samples).products == counted_by_torch(upstream, samples)


def test_every_architecture(tiny: Any) -> None:
    assert_counted(auscult.load(f"hf:{tiny.folder}"))


@pytest.mark.parametrize("name", list(VARIANTS))
def test_variants(name: str, architectures: Any) -> None:
    base, settings = VARIANTS[name]
    found = architectures[base]
    config = AutoConfig.for_model(found.model_type, **{**found.settings, **settings})
    model = build_model(config, seed=0)
    upstream = HuggingFaceUpstream(model, name=name, source=name, normalize=found.normalize)
    assert_counted(upstream)


def test_the_counter_sees_a_missing_product() -> None:
    """A block fewer in the configuration than in the model must be noticed."""
    upstream: Any = load_upstream("random(hubert_tiny)")
    assert_counted(upstream)
    upstream.model.config.intermediate_size -= 1
    with pytest.raises(AssertionError):
        assert_counted(upstream)


def test_a_published_size_on_the_meta_device() -> None:
    upstream: Any = outline_upstream("hubert_base")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        upstream.model(torch.empty(1, 32_000, device="meta"))
    assert upstream.count_macs(32_000).products == counter.get_total_flops() // 2 == 14_004_417_536


# Of the released encoders, with pretraining head and mask vector.
WITH_HEAD = {
    "hubert_base": 94_697_600,
    "wav2vec2_base": 95_044_608,
    "wav2vec2_large_lv60": 317_390_592,
    # Published with the biases of seven convolutions, which fairseq's HuBERT Large does not have.
    "hubert_large": 316_612_992 - 7 * 512,
}
PRINTED = {"hubert_xlarge": "964.3", "wav2vec2_large": "317.4", "data2vec_audio_base": "93.8"}


@pytest.mark.parametrize("name", [*WITH_HEAD, *PRINTED])
def test_parameters_with_the_pretraining_head(name: str) -> None:
    shape = SHAPES[name]
    total = shape.num_parameters + shape.head_parameters
    assert total == WITH_HEAD.get(name, total)
    assert f"{total / 1e6:.1f}" == PRINTED.get(name, f"{total / 1e6:.1f}")


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-conformer"])
def test_heads_of_wav2vec2_are_those_that_transformers_builds(family: str) -> None:
    shapes = [s for s in SHAPES.values() if s.family == family]
    assert shapes
    for shape in shapes:
        config = build_config(shape)
        if config.hidden_size == 1024:
            config.codevector_dim = config.proj_codevector_dim = 768
        with torch.device("meta"):
            model = AutoModelForPreTraining.from_config(config)
        total = sum(parameter.numel() for parameter in model.parameters())
        assert total == shape.num_parameters + shape.head_parameters, shape.name


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_heads_of_distilhubert_are_those_of_s3prl() -> None:
    bridge.repair()
    from s3prl.upstream.distiller.model import DistillerConfig, DistillerModel

    config = {"n_tasks": 3, "pred_layer_id": [4, 8, 12], "encoder_ffn_embed_dim": 8}
    layers: Any = DistillerModel(DistillerConfig(config)).output_layer
    heads = sum(parameter.numel() for parameter in layers.parameters())
    assert heads == SHAPES["distilhubert"].head_parameters
