"""LightHuBERT as an encoder: contract, weights shared by subnets, published files, addresses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import AttentionMap, Waveforms
from auscult.errors import UserError
from auscult.testing import check_row_independence, run_checks, upstream_checks
from auscult.upstreams import SHAPES, outline_upstream
from auscult.upstreams.lighthubert import LightHubertUpstream, network
from auscult.upstreams.lighthubert.network import LightHubert
from auscult.upstreams.lighthubert.space import BASE, SMALL, Dimensions, ExtractorMode, Subnet
from auscult.upstreams.lighthubert.supernet import Supernet, draw_supernet

TINY = Subnet(64, (1, 3), (96, 64), Dimensions(channels=16))
MODES: tuple[ExtractorMode, ...] = ("layer_norm", "group_norm")


@pytest.fixture
def tiny() -> Callable[..., LightHubertUpstream]:
    """Return a function that builds an encoder of 16 channels and two unequal blocks."""

    def build(mode: ExtractorMode, padding: Any = None) -> LightHubertUpstream:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            found = LightHubert(TINY, mode)
            with torch.no_grad():
                for parameter in found.parameters():
                    parameter.normal_(std=0.3)
        found.eval()
        return LightHubertUpstream(found, SMALL, name="tiny", source="", padding=padding)

    return build


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return draw_supernet("layer_norm", 5).eval()


@pytest.mark.parametrize("padding", ["group", "mask"])
@pytest.mark.parametrize("mode", MODES)
def test_contract(
    mode: ExtractorMode, padding: Any, tiny: Callable[..., LightHubertUpstream]
) -> None:
    findings = list(run_checks(tiny(mode, padding)))
    assert [f"{f.check}: {f.why}" for f in findings if not f.passed] == []
    assert len(findings) == len(list(upstream_checks())) >= 10
    assert not any(finding.why for finding in findings)  # every check applies


@pytest.mark.slow
@pytest.mark.parametrize("padding", ["group", "mask"])
def test_contract_of_a_published_size(padding: Any) -> None:
    upstream = auscult.load("random(lighthubert_small@smallest)")
    assert isinstance(upstream, LightHubertUpstream)
    upstream.padding = padding
    assert [f"{f.check}: {f.why}" for f in run_checks(upstream) if not f.passed] == []


def test_a_norm_over_padding_is_seen(
    tiny: Callable[..., LightHubertUpstream], monkeypatch: pytest.MonkeyPatch
) -> None:
    def over_padding(norm: Any, x: Tensor, lengths: Tensor) -> Tensor:
        return torch.nn.GroupNorm.forward(norm, x.mT).mT

    monkeypatch.setattr(network._TimeNorm, "forward", over_padding)
    with pytest.raises(AssertionError, match="in a batch"):
        check_row_independence(tiny("group_norm", "mask"))


def test_spec(tiny: Callable[..., LightHubertUpstream]) -> None:
    spec = tiny("layer_norm").spec
    assert (spec.num_layers, spec.dim, spec.heads) == (2, 64, (1, 3))
    assert spec.normalize and not tiny("group_norm").spec.normalize
    assert spec.convention == "projected_convolution"
    assert spec.subnet == str(TINY) and spec.head_parameters == 64 * 768
    assert (spec.geometry.stride, spec.geometry.receptive_field) == (320, 400)
    assert tiny("layer_norm").spec.sha256 == spec.sha256 != tiny("group_norm").spec.sha256


def test_frames() -> None:
    lengths = torch.tensor([399, 400, 720, 1040, 12_080, 16_000, 16_080, 16_400])
    assert network.num_frames(lengths).tolist() == [0, 1, 2, 3, 37, 49, 50, 51]


def test_waveforms_are_normalised_one_by_one(tiny: Callable[..., LightHubertUpstream]) -> None:
    upstream = tiny("layer_norm", "mask")
    rows = [torch.randn(n, generator=torch.Generator().manual_seed(n)) for n in (4000, 3000)]
    louder = [3 + 20 * row for row in rows]
    with torch.no_grad():
        for a, b in zip(
            upstream(Waveforms.of(rows)).layers, upstream(Waveforms.of(louder)).layers, strict=True
        ):
            # the variance has 1e-5 added to it: seen by the quieter one alone
            torch.testing.assert_close(a[0], b[0], rtol=1e-4, atol=1e-4)


def test_attention_of_each_block_has_its_own_heads(
    tiny: Callable[..., LightHubertUpstream],
) -> None:
    maps: list[AttentionMap] = []
    with torch.no_grad():
        tiny("layer_norm").visit_attention(Waveforms.of([torch.randn(4000)]), maps.append)
    assert [tuple(found.weights.shape) for found in maps] == [(1, 1, 12, 12), (1, 3, 12, 12)]


@pytest.mark.parametrize("subnet", [SMALL.sample(1), BASE.sample(1)], ids=["small", "base"])
def test_a_cut_network_equals_the_supernet(subnet: Subnet, supernet: Supernet) -> None:
    samples = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([3000, 2400])
    cut = supernet.cut(subnet)
    with torch.no_grad():
        whole, alone = supernet(samples, lengths, subnet), cut(samples, lengths)
    off = max(float((a - b).abs().max()) for a, b in zip(whole, alone, strict=True))
    print(f"parity: LightHuBERT cut out against its supernet {off:.1e}")
    assert off <= 1e-6
    assert len(whole) == subnet.depth + 1
    memory = {tensor.untyped_storage().data_ptr() for tensor in supernet.state_dict().values()}
    assert not memory & {t.untyped_storage().data_ptr() for t in cut.state_dict().values()}
    assert all(tensor.is_contiguous() for tensor in cut.state_dict().values())


def test_gradients_reach_the_stored_weights(supernet: Supernet) -> None:
    """Those that the subnet uses, and no others; the head predicts 768 dims of any subnet."""
    subnet = SMALL.smallest
    samples = torch.randn(1, 2000, generator=torch.Generator().manual_seed(0))
    hidden = torch.tensor([[True, False, True, False, False, False]])
    supernet.zero_grad()
    states = supernet(samples, torch.tensor([2000]), subnet, masked=hidden)
    predicted = supernet.predict(states[-1])
    assert predicted.shape == (1, 6, 768)
    predicted.square().sum().backward()
    gradients = {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}
    unused = {name for name, _ in supernet.named_parameters()} - set(gradients)
    assert {name.split(".")[2] for name in unused} == {"7", "11"}  # the dropped layers
    fc1 = gradients["encoder.layers.3.fc1.weight"]
    for start in (0, 768, 1536):
        assert fc1[start : start + 256, :256].abs().sum(1).min() > 0
    assert not fc1[:, 256:].any() and not fc1[256:768].any() and not fc1[2304:].any()
    assert gradients["encoder.pos_conv.0.weight_g"].any()
    assert gradients["mask_emb"][:256].all() and not gradients["mask_emb"][256:].any()
    head = gradients["layer_pred_heads.11.weight"]
    assert head[:, :256].all() and not head[:, 256:].any()
    supernet.zero_grad()


def test_masked_frames_are_hidden_and_state_zero_is_not_touched(
    tiny: Callable[..., LightHubertUpstream],
) -> None:
    encoder = tiny("layer_norm").network
    samples, lengths = torch.randn(1, 2000), torch.tensor([2000])
    hidden = torch.tensor([[False, True, True, False, False, False]])
    with torch.no_grad():
        plain, masked = encoder(samples, lengths), encoder(samples, lengths, masked=hidden)
        everything = encoder(samples, lengths, masked=torch.ones_like(hidden))
        other = encoder(torch.randn(1, 2000), lengths, masked=torch.ones_like(hidden))
    torch.testing.assert_close(masked[0], plain[0], rtol=0, atol=0)
    assert (masked[1] - plain[1]).abs().max() > 0.01
    torch.testing.assert_close(everything[1], other[1], rtol=0, atol=0)


def test_training_drops_out_and_evaluation_does_not(supernet: Supernet) -> None:
    samples, lengths = torch.randn(1, 800), torch.tensor([800])
    with torch.no_grad():
        still = [supernet(samples, lengths, SMALL.smallest)[-1] for _ in range(2)]
        supernet.train()
        moving = [supernet(samples, lengths, SMALL.smallest)[-1] for _ in range(2)]
        supernet.eval()
    assert torch.equal(*still) and not torch.equal(*moving)


# --- addresses --------------------------------------------------------------------------------


def test_shapes() -> None:
    names = [name for name in SHAPES if name.startswith("lighthubert")]
    assert len(names) == 3
    for name in names:
        upstream = outline_upstream(name)
        assert upstream.spec.num_parameters == SHAPES[name].num_parameters
        assert upstream.spec.head_parameters == SHAPES[name].head_parameters
        assert upstream.spec.normalize == SHAPES[name].normalize
        assert upstream.device.type == "meta" and upstream.spec.sha256 == ""


def test_subnets_of_one_seed_share_weights() -> None:
    drawn = auscult.load("random(lighthubert_small@random(3), seed=1)")
    assert drawn.spec.subnet == str(SMALL.sample(3))
    assert drawn.spec.name == "random(lighthubert_small@random(3), seed=1)"
    again = auscult.load(f"random(lighthubert_small@{drawn.spec.subnet})", seed=1)
    assert again.spec.sha256 == drawn.spec.sha256
    small = auscult.load("random(lighthubert_small@smallest, seed=1)")
    wide = drawn.state_dict()["network.encoder.layers.0.self_attn.q_proj.weight"]
    narrow = small.state_dict()["network.encoder.layers.0.self_attn.q_proj.weight"]
    torch.testing.assert_close(narrow, wide[:256, :256], rtol=0, atol=0)


def content(kind: str = "hubert_pruner", mode: ExtractorMode = "layer_norm") -> dict[str, Any]:
    """Return what a published file holds; each weight repeats one row, so that files are small."""
    with torch.device("meta"):
        wanted = Supernet(mode).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(tensor.shape[-1], generator=generator).expand(tensor.shape)
        for name, tensor in wanted.items()
    }
    state["label_embs_concat"] = torch.zeros(1).expand(504, 256)
    state["final_proj.weight"] = torch.zeros(1).expand(256, 768)
    state["final_proj.bias"] = torch.zeros(1).expand(256)
    options = {
        "_name": kind,
        "extractor_mode": {"layer_norm": "layer_norm", "group_norm": "default"}[mode],
        "layer_norm_first": False,
        "conv_feature_layers": "[(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512,2,2)] + [(512,2,2)]",
    }
    if kind == "hubert_pruner":
        options["pruner_supernet"] = "/some/where/config/supernet/Small.yaml"
    return {"model": state, "cfg": {"model": options}}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, Any]], Path]:
    # these files are small because they repeat what they store, which no one else's may
    monkeypatch.setattr("auscult.constructor.MAX_OVERLAP", 1 << 24)
    monkeypatch.setattr("auscult.unpickler.MAX_SHARING", 1 << 12)

    def save(found: Mapping[str, Any]) -> Path:
        torch.save(dict(found), tmp_path / "lighthubert.pt")
        return tmp_path / "lighthubert.pt"

    return save


@pytest.mark.parametrize("mode", MODES)
def test_published_files(
    mode: ExtractorMode,
    saved: Callable[[Mapping[str, Any]], Path],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "auscult")
    found = content(mode=mode)
    path = saved(found)
    assert path.stat().st_size < 2**20
    upstream = auscult.load(f"lighthubert:{path}@smallest")
    assert isinstance(upstream, LightHubertUpstream)
    assert upstream.spec.normalize == (mode == "layer_norm")
    assert upstream.spec.subnet == str(SMALL.smallest)
    assert "left over, not of the encoder: final_proj.bias, final_proj.w" in caplog.text
    query = upstream.state_dict()["network.encoder.layers.7.self_attn.q_proj.weight"]
    stored = found["model"]["encoder.layers.8.self_attn.q_proj.weight"]  # layer 7 is dropped
    torch.testing.assert_close(query, stored[:256, :256], rtol=0, atol=0)
    twin = auscult.load(f"random(lighthubert:{path}@smallest)", seed=4)
    assert twin.spec.normalize == upstream.spec.normalize
    assert twin.spec.sha256 == draw_sha(mode, 4, SMALL.smallest)


def draw_sha(mode: ExtractorMode, seed: int, subnet: Subnet) -> str:
    cut = draw_supernet(mode, seed).cut(subnet)
    return LightHubertUpstream(cut, SMALL, name="", source="").spec.sha256


@pytest.mark.parametrize(
    ("kind", "table", "default"),
    [
        ("hubert_pruner", "supernet/small.yaml", SMALL.default),
        ("hubert_pruner", "supernet/base.yaml", BASE.default),
        ("student_hubert", None, BASE.largest),
    ],
)
def test_default_subnets(
    kind: str,
    table: str | None,
    default: Subnet,
    saved: Callable[[Mapping[str, Any]], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = content(kind)
    found["cfg"]["model"]["pruner_supernet"] = table
    cut: list[Subnet] = []

    def remember(supernet: Supernet, subnet: Subnet) -> LightHubert:
        cut.append(subnet)
        with torch.device("meta"):
            return LightHubert(subnet)

    monkeypatch.setattr(Supernet, "cut", remember)
    auscult.load(f"lighthubert:{saved(found)}")
    assert cut == [default]


def lacking(found: dict[str, Any]) -> None:
    del found["model"]["encoder.layers.11.fc2.bias"]


def misshapen(found: dict[str, Any]) -> None:
    found["model"]["encoder.layers.11.fc2.bias"] = torch.zeros(7)


def unexpected(found: dict[str, Any]) -> None:
    found["model"]["encoder.layers.12.fc2.bias"] = torch.zeros(768)


def without_norm(found: dict[str, Any]) -> None:
    del found["model"]["feature_extractor.conv_layers.0.2.1.weight"]


def of_other_mode(found: dict[str, Any]) -> None:
    found["cfg"]["model"]["extractor_mode"] = "default"


def pre_norm(found: dict[str, Any]) -> None:
    found["cfg"]["model"]["layer_norm_first"] = True


def of_six_convolutions(found: dict[str, Any]) -> None:
    found["cfg"]["model"]["conv_feature_layers"] = "[(512, 10, 5)] + [(512, 3, 2)] * 5"


def raw(found: dict[str, Any]) -> None:
    found["cfg"]["task"] = {"normalize": False}


def of_other_space(found: dict[str, Any]) -> None:
    found["cfg"]["model"]["pruner_supernet"] = "huge.yaml"


def other_kind(found: dict[str, Any]) -> None:
    found["cfg"]["model"]["_name"] = "hubert"


def without_configuration(found: dict[str, Any]) -> None:
    del found["cfg"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lacking, "lighthubert.pt lacks encoder.layers.11.fc2.bias"),
        (misshapen, r"encoder.layers.11.fc2.bias as float32 \(7,\), expected float32 \(768,\)"),
        (unexpected, "holds, unexpectedly, encoder.layers.12.fc2.bias"),
        (without_norm, "neither feature_extractor.conv_layers.0.2.1.weight nor"),
        (of_other_mode, "extractor_mode = 'default', its weights are .* with layer_norm"),
        (pre_norm, "layer_norm_first = True; LightHuBERT is read with False only"),
        (of_six_convolutions, "LightHuBERT is read with .*512, 10, 5"),
        (raw, "normalize = False, its weights are .* with layer_norm"),
        (of_other_space, "pruner_supernet = 'huge.yaml' is not known"),
        (other_kind, "is a model of kind 'hubert'; a LightHuBERT checkpoint is 'hubert_pruner'"),
        (without_configuration, "expected weights under 'model' and a configuration under 'cfg'"),
    ],
)
def test_files_that_are_refused(
    spoil: Callable[[dict[str, Any]], None],
    message: str,
    saved: Callable[[Mapping[str, Any]], Path],
) -> None:
    found = content()
    spoil(found)
    with pytest.raises(UserError, match=message):
        auscult.load(f"lighthubert:{saved(found)}")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lighthubert", "needs a checkpoint file or an exported folder"),
        ("lighthubert:nowhere.pt", "nowhere.pt does not exist"),
        ("lighthubert_small", r"write random\(lighthubert_small\)"),
        ("random(lighthubert_small@a_base)", "subnet of the base space, not of the small one"),
        ("random(lighthubert_base@embed=256,depth=12,heads=8,ffn=4)", "256"),
    ],
)
def test_addresses_that_cannot_be_built(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        auscult.load(spec)
