"""w2v-BERT of 2021: parity of its parts, exact padding, sizes, and masking."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchaudio
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode
from torchaudio.models.conformer import ConformerLayer
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoderLayer,
    Wav2Vec2ConformerGumbelVectorQuantizer,
)

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.testing import noise, run_checks, upstream_checks
from auscult.upstreams import SHAPES, load_upstream, outline_upstream
from auscult.upstreams.w2v_bert import (
    Dimensions,
    W2vBert,
    W2vBertUpstream,
    build_w2v_bert,
    xl,
    xxl,
)
from auscult.upstreams.w2v_bert.conformer import ConformerBlock, ConvolutionModule, MaskedBatchNorm
from auscult.upstreams.w2v_bert.model import FeatureEncoder, GumbelQuantizer, build_block

TINY = Dimensions(
    contrastive_blocks=2,
    masked_prediction_blocks=3,
    dim=16,
    heads=4,
    feed_forward=40,
    filters=23,
    channels=6,
    codebook=12,
    code_dim=10,
)
# Float32 on values of unit size, in other orders of summation; a wrong factor moves tenths.
ATOL, RTOL = 2e-6, 1e-5


def stir(module: nn.Module, seed: int = 0) -> None:
    """Leave no weight and no statistic at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in [*module.parameters(), *module.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape, generator=generator))


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_parity(what: str, found: Tensor, wanted: Tensor) -> None:
    print(f"parity: {what} {float((found - wanted).detach().abs().max()):.1e}")
    assert_close(found, wanted, atol=ATOL, rtol=RTOL)


@pytest.fixture
def block() -> ConformerBlock:
    torch.manual_seed(5)
    found = build_block(TINY)
    stir(found)
    return found.eval()


@pytest.fixture
def model() -> W2vBert:
    torch.manual_seed(6)
    found = build_w2v_bert(TINY)
    stir(found)
    return found.eval()


# --- parity ------------------------------------------------------------------------------------


def of_torchaudio(block: ConformerBlock) -> Any:
    """torchaudio's block with the weights of ours."""
    theirs = ConformerLayer(TINY.dim, TINY.feed_forward, TINY.heads, TINY.conv_kernel)
    ours = block.state_dict()
    attention = [f"self_attn.linear_{part}" for part in "qkv"]
    weights = {
        "self_attn.in_proj_weight": torch.cat([ours.pop(f"{x}.weight") for x in attention]),
        "self_attn.in_proj_bias": torch.cat([ours.pop(f"{x}.bias") for x in attention]),
    }
    renamed = {
        "self_attn.linear_out": "self_attn.out_proj",
        "ffn1_layer_norm": "ffn1.sequential.0",
        "ffn1.intermediate_dense": "ffn1.sequential.1",
        "ffn1.output_dense": "ffn1.sequential.4",
        "ffn2_layer_norm": "ffn2.sequential.0",
        "ffn2.intermediate_dense": "ffn2.sequential.1",
        "ffn2.output_dense": "ffn2.sequential.4",
        "conv_module.pointwise_conv1": "conv_module.sequential.0",
        "conv_module.depthwise_conv": "conv_module.sequential.2",
        "conv_module.batch_norm": "conv_module.sequential.3",
        "conv_module.pointwise_conv2": "conv_module.sequential.5",
    }
    for name, tensor in ours.items():
        part, _, leaf = name.rpartition(".")
        weights[f"{renamed.get(part, part)}.{leaf}"] = tensor
    theirs.load_state_dict(weights)
    return theirs.eval()


def of_transformers(block: ConformerBlock) -> Any:
    """transformers' block with the weights of ours, whose convolutions lose their biases."""
    config = Wav2Vec2ConformerConfig(
        hidden_size=TINY.dim,
        num_attention_heads=TINY.heads,
        intermediate_size=TINY.feed_forward,
        conv_depthwise_kernel_size=TINY.conv_kernel,
        hidden_act="swish",
        position_embeddings_type=None,
    )
    config._attn_implementation = "eager"
    theirs = Wav2Vec2ConformerEncoderLayer(config)
    weights = block.state_dict()
    for name in [name for name in weights if name.endswith(("conv.bias", "conv1.bias"))]:
        weights.pop(name).zero_()
    weights.pop("conv_module.pointwise_conv2.bias").zero_()
    theirs.load_state_dict(weights)
    return theirs.eval()


def test_block_equals_torchaudio(block: ConformerBlock) -> None:
    theirs, hidden = of_torchaudio(block), random(2, 9, TINY.dim)
    with torch.no_grad():
        for part in ("ffn1", "ffn2"):
            norm, ours = getattr(block, f"{part}_layer_norm"), getattr(block, part)
            assert_parity(f"{part}, torchaudio", ours(norm(hidden)), getattr(theirs, part)(hidden))
        assert_parity(
            "convolution module, torchaudio",
            block.conv_module(hidden, None),
            theirs.conv_module(hidden),
        )
        normed = block.self_attn_layer_norm(hidden)
        maps: list[Tensor] = []
        wanted, weights = theirs.self_attn(
            *(normed.transpose(0, 1),) * 3, average_attn_weights=False
        )
        found = block.self_attn(normed, None, maps.append)
        assert_parity("attention, torchaudio", found, wanted.transpose(0, 1))
        assert_parity("attention map, torchaudio", maps[0], weights)
        whole = theirs(hidden.transpose(0, 1), None).transpose(0, 1)
        assert_parity("conformer block, torchaudio", block(hidden), whole)


def test_block_among_longer_ones_equals_torchaudio_alone(block: ConformerBlock) -> None:
    theirs, hidden, lengths = of_torchaudio(block), random(3, 9, TINY.dim), [9, 1, 6]
    padded = torch.arange(9) >= torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = block(hidden, padded)
        visited = block(hidden, padded, lambda weights: None)
        for row, length in enumerate(lengths):
            alone = theirs(hidden[row : row + 1, :length].transpose(0, 1), None).transpose(0, 1)
            assert_parity("padded block, torchaudio", together[row, :length], alone[0])
            assert_parity("padded block, visited", visited[row, :length], alone[0])


def test_block_equals_transformers(block: ConformerBlock) -> None:
    theirs, hidden = of_transformers(block), random(2, 9, TINY.dim)
    maps: list[Tensor] = []
    with torch.no_grad():
        for part in ("ffn1", "ffn2"):
            wanted = getattr(theirs, part)(hidden)
            assert_parity(f"{part}, transformers", getattr(block, part)(hidden), wanted)
        wanted, weights = theirs.self_attn(hidden, output_attentions=True)
        assert_parity("attention, transformers", block.self_attn(hidden, None, maps.append), wanted)
        assert_parity("attention map, transformers", maps[0], weights)
        assert_parity(
            "convolution module, transformers",
            block.conv_module(hidden, None),
            theirs.conv_module(hidden),
        )
        assert_parity("conformer block, transformers", block(hidden), theirs(hidden))


def test_training_equals_torchaudio(block: ConformerBlock) -> None:
    """Batch statistics in training, and gradients."""
    theirs, hidden = of_torchaudio(block).train(), random(2, 9, TINY.dim)
    block.train()
    ours, wanted = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    block(ours).square().sum().backward()
    theirs(wanted.transpose(0, 1), None).square().sum().backward()
    assert ours.grad is not None and wanted.grad is not None
    assert_close(ours.grad, wanted.grad, atol=1e-4, rtol=1e-4)  # of size 10, summed over frames
    mean = theirs.conv_module.sequential[3].running_mean
    assert_close(block.conv_module.batch_norm.running_mean, mean)


@pytest.mark.parametrize("part", ["ffn1", "ffn2"])
def test_a_full_feed_forward_step_is_noticed(block: ConformerBlock, part: str) -> None:
    theirs, hidden = of_torchaudio(block), random(2, 9, TINY.dim)
    with torch.no_grad():
        for parameter in getattr(block, part).output_dense.parameters():
            parameter.mul_(2.0)  # a full step is half of twice the output
        wanted = theirs(hidden.transpose(0, 1), None).transpose(0, 1)
        assert float((block(hidden) - wanted).abs().max()) > 0.05
        with pytest.raises(AssertionError, match="not close"):
            assert_parity(f"a full step of {part}", block(hidden), wanted)


@pytest.mark.parametrize("training", [False, True])
def test_quantizer_equals_transformers(training: bool) -> None:
    sizes = SimpleNamespace(
        num_codevector_groups=1,
        num_codevectors_per_group=TINY.codebook,
        codevector_dim=TINY.code_dim,
        conv_dim=(TINY.feature_dim,),
    )
    theirs = Wav2Vec2ConformerGumbelVectorQuantizer(sizes)
    ours = GumbelQuantizer(TINY.feature_dim, TINY.codebook, TINY.code_dim)
    stir(ours)
    weights = ours.state_dict()
    theirs.load_state_dict(weights | {"codevectors": weights["codevectors"][None]})
    features = random(2, 9, TINY.feature_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        wanted, perplexity = theirs.train(training)(features)
        torch.manual_seed(3)
        found = ours.train(training)(features, temperature=2.0)
    assert_parity(f"quantiser, training={training}, transformers", found.vectors, wanted)
    assert_close(found.vectors, ours.codevectors[found.codes], atol=1e-6, rtol=1e-6)
    used = found.probabilities if training else nn.functional.one_hot(found.codes, TINY.codebook)
    mean = used.float().mean((0, 1))
    assert_close(torch.exp(-torch.xlogy(mean, mean).sum()), perplexity)
    found.vectors.square().sum().backward()
    assert bool(ours.weight_proj.weight.grad is not None) == training  # straight through


def test_input_is_kaldis_with_each_utterance_normalised(model: W2vBert) -> None:
    upstream = W2vBertUpstream(model.encoder, TINY, name="tiny", source="")
    audio = noise(upstream, [5123, 6400])
    states = upstream(audio).layers[0]
    for row, samples in enumerate(audio.rows()):
        filterbanks = torchaudio.compliance.kaldi.fbank(samples[None], num_mel_bins=TINY.filters)
        filterbanks = (filterbanks - filterbanks.mean(0)) / filterbanks.std(0)
        first, second = model.encoder.feature_encoder.children()
        maps = torch.relu(second(torch.relu(first(filterbanks[None]))))  # (channel, frame, filter)
        wanted = model.encoder.projection(maps.transpose(0, 1).flatten(1))
        assert_close(states[row, : len(wanted)], wanted, atol=1e-5, rtol=1e-5)


def test_a_frame_sees_the_steps_that_the_geometry_names() -> None:
    features = FeatureEncoder(4)
    filterbanks = random(1, 31, 23)
    whole = features(filterbanks)
    assert features.num_frames(torch.tensor([31, 6, 7])).tolist() == [whole.shape[1], 0, 1]
    for frame in range(whole.shape[1]):
        seen = filterbanks[:, 4 * frame : 4 * frame + 7]  # stride 4 x 160, field 6 x 160 + 400
        assert_close(features(seen)[0, 0], whole[0, frame], atol=ATOL, rtol=RTOL)
    geometry = outline_upstream("w2v_bert_tiny").spec.geometry
    assert (geometry.stride, geometry.receptive_field, geometry.offset) == (640, 1360, 0)


# --- padding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["group", "mask"])
@pytest.mark.parametrize("shape", ["tiny shape", "every weight stirred"])
def test_contract(model: W2vBert, shape: str, padding: Any) -> None:
    if shape == "tiny shape":
        upstream: Any = load_upstream("random(w2v_bert_tiny)")
    else:
        upstream = W2vBertUpstream(model.encoder, TINY, name="tiny", source="").eval()
    upstream.padding = padding
    findings = list(run_checks(upstream))
    assert [f"{f.check}: {f.why}" for f in findings if not f.passed or f.why] == []
    assert len(findings) == len(list(upstream_checks())) >= 10


def test_the_contract_notices_padding_in_the_convolution(
    model: W2vBert, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = W2vBertUpstream(model.encoder, TINY, name="tiny", source="").eval()
    upstream.padding = "mask"
    forward = ConvolutionModule.forward
    monkeypatch.setattr(
        ConvolutionModule, "forward", lambda self, hidden, padded: forward(self, hidden, None)
    )
    failed = {finding.check for finding in run_checks(upstream) if not finding.passed}
    assert "row_independence" in failed


def test_batch_norm_learns_from_valid_frames_alone() -> None:
    lengths = torch.tensor([7, 2, 5])
    padded = torch.arange(7) >= lengths[:, None]
    hidden = random(3, 7, 6)
    ours, theirs = MaskedBatchNorm(6), nn.BatchNorm1d(6)
    found, wanted = ours(hidden, padded), theirs(hidden[~padded])
    assert_close(found[~padded], wanted)
    assert not found[padded].any()
    for name, tensor in theirs.state_dict().items():
        assert_close(ours.state_dict()[name], tensor)


def test_training_does_not_see_padding(model: W2vBert) -> None:
    """Neither in what is predicted nor in gradients nor in running statistics."""
    steps = torch.tensor([40, 27])
    mask = torch.zeros(2, 9, dtype=torch.bool)

    def train(fill: float) -> dict[str, Tensor]:
        trained = build_w2v_bert(TINY).train()
        trained.load_state_dict(model.state_dict())
        filterbanks = random(2, 40, TINY.filters)
        filterbanks[1, 27:] = fill
        found = trained(filterbanks, steps, mask)
        assert found.lengths.tolist() == [9, 6]
        valid = torch.arange(9) < found.lengths[:, None]
        (found.context[valid].square().sum() + found.logits[valid].square().sum()).backward()
        gradients = {
            name: parameter.grad
            for name, parameter in trained.named_parameters()
            if parameter.grad is not None
        }
        states = {"context": found.context[valid], "logits": found.logits[valid]}
        return states | gradients | dict(trained.named_buffers())

    one, other = train(0.0), train(50.0)
    assert len(one) == len(other) > 100
    for name, tensor in one.items():
        assert_close(tensor, other[name], atol=1e-4, rtol=1e-4, msg=name)


# --- sizes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "blocks", "encoder", "heads", "billions"),
    [
        (xl, (12, 24), 582_314_368, 5_639_168, 0.6),
        (xxl, (12, 42), 1_017_069_952, 5_639_168, 1.0),
    ],
)
def test_published_sizes(
    build: Callable[[], W2vBert], blocks: Any, encoder: int, heads: int, billions: float
) -> None:
    with torch.device("meta"):
        model = build()
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.encoder.parameters()) == encoder
    assert total == encoder + heads
    assert round(encoder / 1e9, 1) == round(total / 1e9, 1) == billions
    spec = outline_upstream(f"w2v_bert_{build.__name__}").spec
    assert (spec.num_parameters, spec.head_parameters) == (encoder, heads)
    assert [last for _, last in spec.modules] == list(blocks)
    assert spec.heads == (8,) * blocks[-1] and spec.dim == 1024


def test_shapes_state_their_sizes() -> None:
    shapes = [shape for shape in SHAPES.values() if shape.family == "w2v_bert"]
    assert len(shapes) >= 3
    for shape in shapes:
        spec = outline_upstream(shape.name).spec
        assert spec.num_parameters == shape.num_parameters
        assert spec.head_parameters == shape.head_parameters
        assert spec.normalize == shape.normalize is False


def test_an_outline_leaves_the_process_able_to_encode() -> None:
    """torchaudio keeps a tensor of its own, which must not be made on the meta device."""
    code = (
        "import torch; from auscult.contracts import Waveforms; from auscult.upstreams import *; "
        "outline_upstream('w2v_bert_xl'); encoder = load_upstream('random(w2v_bert_tiny)'); "
        "print(encoder(Waveforms.of([torch.rand(4000)])).layers[-1].isfinite().all().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("samples", [1360, 5123, 16_000])
def test_macs_are_those_of_the_operations_run(model: W2vBert, samples: int) -> None:
    upstream = W2vBertUpstream(model.encoder, TINY, name="tiny", source="").eval()
    filterbanks = random(1, (samples - 400) // 160 + 1, TINY.filters)
    frames = upstream.num_frames(torch.tensor([samples]))
    counter = FlopCounterMode(display=False)  # two for each product
    with torch.no_grad(), counter:
        features = model.encoder.feature_encoder(filterbanks)
        model.encoder(features, frames, visit=lambda found: None)
    counted = upstream.count_macs(samples)
    assert 2 * counted.products == counter.get_total_flops() > 0
    assert counted.extras > 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dim": 0}, "w2v-BERT's dim is 0; expected a whole number of at least 1"),
        ({"dim": "16"}, "w2v-BERT's dim is '16'"),
        ({"heads": True}, "w2v-BERT's heads is True"),
        ({"heads": 5}, "dim 1024 cannot be cut into 5 heads"),
        ({"conv_kernel": 4}, "conv_kernel is 4; it must be odd"),
        ({"filters": 6}, "filters is 6; expected a whole number of at least 7"),
        ({"contrastive_blocks": 0, "masked_prediction_blocks": 0}, "needs a block at least"),
    ],
)
def test_dimensions_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Dimensions(**changed)


# --- two modules and masking -------------------------------------------------------------------


def test_the_boundary_is_where_the_spec_says(model: W2vBert) -> None:
    upstream = W2vBertUpstream(model.encoder, TINY, name="tiny", source="").eval()
    assert upstream.spec.modules == (("contrastive", 2), ("masked_prediction", 5))
    audio = noise(upstream, [6400])
    before = upstream(audio).layers
    stir(model.encoder.masked_prediction)
    after = upstream(audio).layers
    same = [torch.equal(one, other) for one, other in zip(before, after, strict=True)]
    assert same == [True, True, True, False, False, False]


def test_one_module_alone() -> None:
    size = Dimensions(contrastive_blocks=0, masked_prediction_blocks=2, dim=16, heads=4, channels=4)
    torch.manual_seed(0)
    model = build_w2v_bert(size).eval()
    found = model(random(1, 30, 80), torch.tensor([30]), torch.zeros(1, 6, dtype=torch.bool))
    features = model.encoder.feature_encoder(random(1, 30, 80))
    assert_close(found.context, model.heads.contrastive(model.encoder.projection(features)))
    upstream = W2vBertUpstream(model.encoder, size, name="tiny", source="")
    assert upstream.spec.modules == (("masked_prediction", 2),)


def test_masked_features_are_hidden_from_the_blocks_but_not_from_the_targets(
    model: W2vBert,
) -> None:
    filterbanks, steps = random(1, 47, TINY.filters), torch.tensor([47])
    mask = torch.zeros(1, 11, dtype=torch.bool)
    mask[0, 4:7] = True
    other = filterbanks.clone()
    other[0, 19:28] += 3.0  # seen by frames 4 to 6 alone: 3 sees up to step 18, 7 from step 28
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        one = model(filterbanks, steps, mask)
        torch.manual_seed(1)
        two = model(other, steps, mask)
        three = model(filterbanks, steps, mask)
        unmasked = model(filterbanks, steps, torch.zeros_like(mask))
    assert_close(one.context, two.context, atol=0, rtol=0)
    assert_close(one.logits, two.logits, atol=0, rtol=0)
    assert not torch.equal(one.targets.probabilities, two.targets.probabilities)
    assert not torch.equal(one.context, three.context)  # random vectors, not a learned one
    assert torch.equal(one.targets.codes, unmasked.targets.codes)
    assert one.context.shape == (1, 11, TINY.code_dim)
    assert one.logits.shape == one.targets.probabilities.shape == (1, 11, TINY.codebook)


def test_heads_read_the_ends_of_the_modules(model: W2vBert) -> None:
    filterbanks, steps = random(1, 40, TINY.filters), torch.tensor([40])
    found = model(filterbanks, steps, torch.zeros(1, 9, dtype=torch.bool))
    states = model.encoder(model.encoder.feature_encoder(filterbanks), torch.tensor([9]))
    assert_close(found.context, model.heads.contrastive(states[2]))
    assert_close(found.logits, model.heads.masked_prediction(states[5]))


def test_speech_too_short_for_a_frame_is_refused() -> None:
    upstream = auscult.load("random(w2v_bert_tiny)")
    with pytest.raises(UserError, match="is 1359 samples; .* needs at least 1360"):
        upstream(Waveforms.of([torch.zeros(1359)]))
    assert torch.isfinite(upstream(Waveforms.of([torch.zeros(4000)])).layers[-1]).all()  # silence
