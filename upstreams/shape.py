"""Published encoder shapes by name, for weights drawn from a seed where there is no checkpoint.

Settings are those of fairseq's releases, given as what differs from the defaults of transformers'
configuration class. HuBERT Large has convolution biases in some conversions on the hub and none in
fairseq; here it has none.

Pretraining heads are counted as published: HuBERT's projection and its embeddings of 504 labels,
wav2vec 2.0's quantiser and two projections, data2vec's regression, DistilHuBERT's three
predictions. With encoder and mask vector they make up the sizes that papers print. Heads that are
not public (WavLM, w2v-BERT 2.0) are not counted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An architecture without weights."""

    name: str
    target: str = (
        "auscult.upstreams.huggingface.upstream:load_shape"  # called with the address and a seed
    )
    family: str  # architecture; for transformers' encoders the name of the configuration class
    settings: Mapping[str, Any]  # what the target makes of it
    normalize: bool  # zero mean, unit variance over each utterance before the encoder
    num_parameters: int  # without pretraining heads, with the mask vector
    head_parameters: int = 0  # of the published pretraining head
    subnets: bool = False  # whether @subnet may follow the name
    description: str


_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_XLARGE = _LARGE | {"hidden_size": 1280, "num_hidden_layers": 48, "intermediate_size": 5120}
_PRE_NORM = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
_TINY = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "conv_dim": (64,) * 7,
}
_CONFORMER = {
    "feat_extract_norm": "layer",
    "conv_bias": True,
    "position_embeddings_type": "relative",
}
_MOCKINGJAY = "auscult.upstreams.mockingjay:load_shape"
_STACKED = {"front_end": "albert", "sequence_length": 0}
_ONLINE = {"front_end": "online", "sequence_length": 1500}
_LIGHTHUBERT = "auscult.upstreams.lighthubert:load_shape"
_SUPERNET = {"extractor_mode": "layer_norm"}

_ROWS = (
    Shape(
        name="hubert_tiny",
        family="hubert",
        settings=_TINY,
        normalize=False,
        num_parameters=999_552,
        description="4 blocks of width 128 on a 64-channel extractor; for trials and tests",
    ),
    Shape(
        name="hubert_base",
        family="hubert",
        settings={},
        normalize=False,
        num_parameters=94_371_712,
        head_parameters=325_888,
        description="HuBERT Base (LS-960): 12 blocks of 768",
    ),
    Shape(
        name="hubert_large",
        family="hubert",
        settings=_LARGE | _PRE_NORM,
        normalize=True,
        num_parameters=315_435_136,
        head_parameters=1_174_272,
        description="HuBERT Large (LL-60k): 24 blocks of 1024, pre-norm",
    ),
    Shape(
        name="hubert_xlarge",
        family="hubert",
        settings=_XLARGE | _PRE_NORM,
        normalize=True,
        num_parameters=962_493_824,
        head_parameters=1_827_840,
        description="HuBERT X-Large (LL-60k): 48 blocks of 1280, pre-norm",
    ),
    Shape(
        name="distilhubert",
        family="hubert",
        settings={"num_hidden_layers": 2, "feat_proj_layer_norm": False},
        normalize=False,
        num_parameters=23_491_968,
        head_parameters=3_543_552,
        description="DistilHuBERT: 2 blocks of 768 under HuBERT Base's extractor",
    ),
    Shape(
        name="wav2vec2_base",
        family="wav2vec2",
        settings={},
        normalize=False,
        num_parameters=94_371_712,
        head_parameters=672_896,
        description="wav2vec 2.0 Base (LS-960): 12 blocks of 768",
    ),
    Shape(
        name="wav2vec2_large",
        family="wav2vec2",
        settings=_LARGE,
        normalize=False,
        num_parameters=315_428_992,
        head_parameters=1_951_872,
        description="wav2vec 2.0 Large (LS-960): 24 blocks of 1024, post-norm, no biases",
    ),
    Shape(
        name="wav2vec2_large_lv60",
        family="wav2vec2",
        settings=_LARGE | _PRE_NORM | {"conv_bias": True},
        normalize=True,
        num_parameters=315_438_720,
        head_parameters=1_951_872,
        description="wav2vec 2.0 Large (LV-60): 24 blocks of 1024, pre-norm, convolution biases",
    ),
    Shape(
        name="wavlm_base",
        family="wavlm",
        settings={},
        normalize=False,
        num_parameters=94_381_936,
        description="WavLM Base and Base+: 12 blocks of 768, gated relative positions",
    ),
    Shape(
        name="wavlm_large",
        family="wavlm",
        settings=_LARGE | _PRE_NORM,
        normalize=True,
        num_parameters=315_453_120,
        description="WavLM Large: 24 blocks of 1024, pre-norm, gated relative positions",
    ),
    Shape(
        name="data2vec_audio_base",
        family="data2vec-audio",
        settings={},
        normalize=True,
        num_parameters=93_164_288,
        head_parameters=590_592,
        description="data2vec audio Base: 12 blocks of 768, five positional convolutions",
    ),
    Shape(
        name="data2vec_audio_large",
        family="data2vec-audio",
        settings=_LARGE,
        normalize=True,
        num_parameters=313_276_416,
        head_parameters=1_049_600,
        description="data2vec audio Large: 24 blocks of 1024, five positional convolutions",
    ),
    Shape(
        name="wav2vec2_conformer_large",
        family="wav2vec2-conformer",
        settings=_LARGE | _CONFORMER,
        normalize=True,
        num_parameters=618_559_104,
        head_parameters=1_951_872,
        description="wav2vec 2.0 Conformer Large: 24 blocks of 1024, relative positions",
    ),
    Shape(
        name="w2v_bert_2",
        family="wav2vec2-bert",
        settings={},
        normalize=True,
        num_parameters=580_493_120,
        description="w2v-BERT 2.0: 24 conformer blocks of 1024 on stacked filterbanks",
    ),
    Shape(
        name="w2v_bert_tiny",
        target="auscult.upstreams.w2v_bert:load_shape",
        family="w2v_bert",
        settings={
            "contrastive_blocks": 2,
            "masked_prediction_blocks": 2,
            "dim": 96,
            "heads": 4,
            "feed_forward": 480,
            "channels": 16,
            "codebook": 64,
            "code_dim": 96,
        },
        normalize=False,
        num_parameters=1_041_296,
        head_parameters=41_184,
        description="2 + 2 conformer blocks of 96, w2v-BERT's structure; for trials and tests",
    ),
    Shape(
        name="w2v_bert_xl",
        target="auscult.upstreams.w2v_bert:load_shape",
        family="w2v_bert",
        settings={},
        normalize=False,
        num_parameters=582_314_368,
        head_parameters=5_639_168,
        description="w2v-BERT XL: 12 contrastive and 12 masked-prediction conformers of 1024",
    ),
    Shape(
        name="w2v_bert_xxl",
        target="auscult.upstreams.w2v_bert:load_shape",
        family="w2v_bert",
        settings={"masked_prediction_blocks": 30},
        normalize=False,
        num_parameters=1_017_069_952,
        head_parameters=5_639_168,
        description="w2v-BERT XXL: 12 contrastive and 30 masked-prediction conformers of 1024",
    ),
    Shape(
        name="mockingjay_3l",
        target=_MOCKINGJAY,
        family="mockingjay",
        settings=_STACKED | {"num_layers": 3},
        normalize=False,
        num_parameters=21_634_560,
        head_parameters=2_956_803,
        description="Mockingjay of the papers: 3 layers on stacked log-mel frames",
    ),
    Shape(
        name="mockingjay_6l",
        target=_MOCKINGJAY,
        family="mockingjay",
        settings=_STACKED | {"num_layers": 6},
        normalize=False,
        num_parameters=42_898_176,
        head_parameters=2_956_803,
        description="Mockingjay of the papers: 6 layers on stacked log-mel frames",
    ),
    Shape(
        name="mockingjay_12l",
        target=_MOCKINGJAY,
        family="mockingjay",
        settings=_STACKED | {"num_layers": 12},
        normalize=False,
        num_parameters=85_425_408,
        head_parameters=2_956_803,
        description="Mockingjay of the papers: 12 layers on stacked log-mel frames",
    ),
    Shape(
        name="audio_albert_3l",
        target=_MOCKINGJAY,
        family="audio_albert",
        settings=_STACKED | {"num_layers": 3},
        normalize=False,
        num_parameters=7_458_816,
        head_parameters=2_956_803,
        description="Audio ALBERT: 3 layers, one set of weights, on stacked log-mel frames",
    ),
    Shape(
        name="audio_albert_6l",
        target=_MOCKINGJAY,
        family="audio_albert",
        settings=_STACKED | {"num_layers": 6},
        normalize=False,
        num_parameters=7_458_816,
        head_parameters=2_956_803,
        description="Audio ALBERT: 6 layers, one set of weights, on stacked log-mel frames",
    ),
    Shape(
        name="audio_albert_12l",
        target=_MOCKINGJAY,
        family="audio_albert",
        settings=_STACKED | {"num_layers": 12},
        normalize=False,
        num_parameters=7_458_816,
        head_parameters=2_956_803,
        description="Audio ALBERT: 12 layers, one set of weights, on stacked log-mel frames",
    ),
    Shape(
        name="mockingjay_s3prl_3l",
        target=_MOCKINGJAY,
        family="mockingjay",
        settings=_ONLINE | {"num_layers": 3},
        normalize=False,
        num_parameters=21_327_360,
        head_parameters=653_648,
        description="s3prl's Mockingjay: 3 layers on 80 log-mel filters",
    ),
    Shape(
        name="mockingjay_s3prl_12l",
        target=_MOCKINGJAY,
        family="mockingjay",
        settings=_ONLINE | {"num_layers": 12, "sequence_length": 500},
        normalize=False,
        num_parameters=85_118_208,
        head_parameters=746_697,
        description="SUPERB's Mockingjay (origin): 12 layers on 80 log-mel filters",
    ),
    Shape(
        name="audio_albert_s3prl_3l",
        target=_MOCKINGJAY,
        family="audio_albert",
        settings=_ONLINE | {"num_layers": 3},
        normalize=False,
        num_parameters=7_151_616,
        head_parameters=653_648,
        description="s3prl's Audio ALBERT: 3 layers, one set of weights, on 80 log-mel filters",
    ),
    Shape(
        name="lighthubert_small",
        target=_LIGHTHUBERT,
        family="lighthubert",
        settings=_SUPERNET | {"space": "small", "subnet": "a_small"},
        normalize=True,
        num_parameters=26_879_744,
        head_parameters=294_912,
        subnets=True,
        description="LightHuBERT Small, @a_small unless another follows: 12 blocks of 384",
    ),
    Shape(
        name="lighthubert_base",
        target=_LIGHTHUBERT,
        family="lighthubert",
        settings=_SUPERNET | {"space": "base", "subnet": "a_base"},
        normalize=True,
        num_parameters=66_897_664,
        head_parameters=491_520,
        subnets=True,
        description="LightHuBERT Base, @a_base unless another follows: 12 blocks of 640",
    ),
    Shape(
        name="lighthubert_stage1",
        target=_LIGHTHUBERT,
        family="lighthubert",
        settings=_SUPERNET | {"space": "base", "subnet": "largest"},
        normalize=True,
        num_parameters=94_377_728,
        head_parameters=589_824,
        subnets=True,
        description="LightHuBERT Stage 1, @largest unless another follows: 12 blocks of 768",
    ),
)
SHAPES: Mapping[str, Shape] = {shape.name: shape for shape in _ROWS}
