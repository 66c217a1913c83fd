"""Search spaces by numbers: the rules of the published ones over a smaller stored network."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import auscult
from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.testing import run_checks
from auscult.upstreams import outline_upstream
from auscult.upstreams.lighthubert import LightHubertUpstream, slicing
from auscult.upstreams.lighthubert.checkpoint import write_supernet
from auscult.upstreams.lighthubert.cost import count_macs, count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.export import export_subnet, export_transformers
from auscult.upstreams.lighthubert.scaled import build_space, describe_space, read_space
from auscult.upstreams.lighthubert.space import (
    BASE,
    PUBLISHED,
    SMALL,
    Dimensions,
    Subnet,
    kept_layers,
    whole,
)
from auscult.upstreams.lighthubert.subnet import parse_subnet
from auscult.upstreams.lighthubert.supernet import Supernet, draw_supernet

STORED = Dimensions(
    width=64,
    ffn=192,
    heads=4,
    head_dim=16,
    layers=4,
    channels=8,
    position_kernel=16,
    position_groups=8,
    target_dim=24,
)
CHOICES: Mapping[str, Any] = {
    "embed_dims": (32, 48, 64),
    "heads": (2, 3, 4),
    "ratios": (2.0, 2.5, 3.0),
    "depths": (2, 3, 4),
}
SPACE = build_space("custom", STORED, **CHOICES)
MIXED = Subnet(48, (2, 4, 3), (96, 120, 144), STORED)
SUBNETS = [SPACE.smallest, SPACE.default, SPACE.largest, MIXED]


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    return draw_supernet("layer_norm", 2, STORED).eval()


@pytest.fixture
def file(supernet: Supernet, tmp_path: Path) -> Path:
    write_supernet(supernet, SPACE, 2, tmp_path / "model")
    return tmp_path / "model" / "lighthubert.pt"


def test_corners() -> None:
    assert str(SPACE.default) == "embed=48,depth=4,heads=3,ffn=3"
    assert str(SPACE.smallest) == "embed=32,depth=2,heads=2,ffn=2"
    assert SPACE.largest == whole(STORED)
    assert SPACE.num_subnets == 3 * (9**2 + 9**3 + 9**4)
    for space in (SMALL, BASE):
        choices = {name: getattr(space, name) for name in CHOICES}
        assert build_space(space.name, PUBLISHED, **choices) == space
    assert whole(PUBLISHED) == BASE.largest


@pytest.mark.parametrize(
    ("layers", "kept"),
    [
        (1, [(0,)]),
        (2, [(0,), (0, 1)]),
        (3, [(0,), (0, 1), (0, 1, 2)]),
        (4, [(0,), (0, 2), (0, 1, 2), (0, 1, 2, 3)]),
        (6, [(0,), (0, 2), (0, 2, 4), (0, 1, 2, 4), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5)]),
    ],
)
def test_kept_layers(layers: int, kept: list[tuple[int, ...]]) -> None:
    stored = replace(STORED, layers=layers)
    assert [kept_layers(depth, stored) for depth in range(1, layers + 1)] == kept
    with pytest.raises(UserError, match=f"depth is {layers + 1}; LightHuBERT defines 1"):
        kept_layers(layers + 1, stored)


def test_what_is_cut_is_what_the_rules_say(supernet: Supernet) -> None:
    state, own = supernet.state_dict(), supernet.cut(MIXED).state_dict()
    layer = "encoder.layers.1."  # the second of three kept of four: all but the last
    # 120 feed-forward rows in blocks of 64, of each the first 48
    rows = [*range(48), *range(64, 112), *range(128, 152)]
    wanted = {
        f"{layer}fc1.weight": state[f"{layer}fc1.weight"][rows][:, :48],
        f"{layer}fc1.bias": state[f"{layer}fc1.bias"][rows],
        f"{layer}fc2.weight": state[f"{layer}fc2.weight"][:48][:, rows],
        f"{layer}self_attn.k_proj.weight": state[f"{layer}self_attn.k_proj.weight"][:64, :48],
        f"{layer}self_attn.out_proj.weight": state[f"{layer}self_attn.out_proj.weight"][:48, :64],
        "post_extract_proj.weight": state["post_extract_proj.weight"][:48],
        "mask_emb": state["mask_emb"],
        "feature_extractor.conv_layers.3.0.weight": state[
            "feature_extractor.conv_layers.3.0.weight"
        ],
    }
    for name, tensor in wanted.items():
        torch.testing.assert_close(own[name], tensor, rtol=0, atol=0)
    direction = state["encoder.pos_conv.0.weight_v"]
    norm = state["encoder.pos_conv.0.weight_g"] / direction.flatten(0, 1).norm(dim=0)
    torch.testing.assert_close(own["encoder.pos_conv.0.weight"], (direction * norm)[:48, :6])
    assert {name.split(".")[2] for name in own if "layers" in name and "encoder" in name} == {
        *"012"
    }


def pass_through(network: Any, *subnet: Subnet) -> tuple[Tensor, ...]:
    samples = torch.randn(2, 4000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        states: tuple[Tensor, ...] = network(samples, torch.tensor([4000, 3000]), *subnet)
    return states


@pytest.mark.parametrize("subnet", SUBNETS, ids=str)
def test_a_cut_subnet_computes_what_the_supernet_does(subnet: Subnet, supernet: Supernet) -> None:
    sliced, cut = pass_through(supernet, subnet), pass_through(supernet.cut(subnet))
    assert len(cut) == subnet.depth + 1 and cut[-1].shape == (2, 12, subnet.embed_dim)
    for a, b in zip(sliced, cut, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert supernet.predict(cut[-1]).shape == (2, 12, 24)


def test_other_slicing_is_seen(supernet: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced = pass_through(supernet, MIXED)
    monkeypatch.setattr(slicing, "ffn_rows", lambda dim, width, stored: [(0, width)])
    cut = pass_through(supernet.cut(MIXED))
    assert float((sliced[-1] - cut[-1]).abs().max()) > 1e-3


def test_a_subnet_of_another_supernet_is_refused(supernet: Supernet) -> None:
    with pytest.raises(ValueError, match=r"is cut from Dimensions\(width=768"):
        supernet.cut(SMALL.smallest)


@pytest.mark.parametrize("subnet", SUBNETS, ids=str)
def test_counts_are_those_of_the_network(subnet: Subnet, supernet: Supernet) -> None:
    network = supernet.cut(subnet)
    assert count_parameters(subnet, "layer_norm") == sum(p.numel() for p in network.parameters())
    heads = 2 * subnet.depth
    small, big = (count_macs(replace(subnet, heads=(n,) * subnet.depth), 8000) for n in (2, 4))
    frames, dim = 24, subnet.embed_dim
    # of each further head: four projections, then scores and mixing over pairs of frames
    added = heads * 16 * (4 * frames * dim + 2 * frames**2)
    assert big.products - small.products == added


def test_forms_of_subnets(tmp_path: Path) -> None:
    def parse(text: str) -> Subnet:
        return parse_subnet(text, SPACE, "layer_norm")

    assert parse("") == parse("default") == SPACE.default
    assert parse("smallest") == SPACE.smallest and parse("largest") == SPACE.largest
    assert parse("random(3)") == SPACE.sample(3) != parse("random(4)")
    for subnet in (*SUBNETS, SPACE.sample(7)):
        assert parse(str(subnet)) == subnet
        (tmp_path / "subnet.json").write_text(str(subnet.to_dict()).replace("'", '"'))
        assert parse(f"{tmp_path}/subnet.json") == subnet
    assert MIXED.to_dict()["atten_dim"] == [32, 64, 48]
    for budget, count in (("params<=90K", _parameters), ("macs<=3G", count_superb_macs)):
        found, limit = parse(budget), {"params<=90K": 90_000, "macs<=3G": 3 * 10**9}[budget]
        assert count(SPACE.smallest) < count(found) <= limit < count(SPACE.largest)
        assert count(found) > 0.98 * limit
    with pytest.raises(UserError, match="of the small space, not of the custom one"):
        parse("a_small")
    with pytest.raises(UserError, match="embed_dim is 40.*expected 32, 48 or 64"):
        parse("embed=40,depth=4,heads=2,ffn=2")


def _parameters(subnet: Subnet) -> int:
    return count_parameters(subnet, "layer_norm")


def test_a_saved_supernet_is_read_back(file: Path, supernet: Supernet) -> None:
    for address in (f"lighthubert:{file}@{MIXED}", f"lighthubert:{file.parent}@{MIXED}"):
        upstream = auscult.load(address)
        assert isinstance(upstream, LightHubertUpstream)
        assert upstream.space == SPACE and upstream.network.subnet == MIXED
        assert upstream.spec.num_parameters == count_parameters(MIXED, "layer_norm")
        assert upstream.spec.head_parameters == 48 * 24 and upstream.spec.normalize
        for a, b in zip(
            pass_through(upstream.network), pass_through(supernet.cut(MIXED)), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert outline_upstream(f"lighthubert:{file.parent}").spec.subnet == str(SPACE.default)
    twin = auscult.load(f"random(lighthubert:{file.parent}@smallest, seed=3)")
    drawn = draw_supernet("layer_norm", 3, STORED).cut(SPACE.smallest)
    assert isinstance(twin, LightHubertUpstream)
    for name, tensor in drawn.state_dict().items():
        torch.testing.assert_close(twin.network.state_dict()[name], tensor, rtol=0, atol=0)


def test_contract(file: Path) -> None:
    findings = list(run_checks(auscult.load(f"lighthubert:{file}@{MIXED}")))
    assert [f"{f.check}: {f.why}" for f in findings if not f.passed] == []
    assert len(findings) >= 10


def test_stage_1_is_its_largest_subnet(supernet: Supernet, tmp_path: Path) -> None:
    write_supernet(supernet, SPACE, 1, tmp_path)
    assert auscult.load(f"lighthubert:{tmp_path}").spec.subnet == str(SPACE.largest)


def test_an_exported_subnet_is_read_back(file: Path, tmp_path: Path) -> None:
    from transformers import HubertModel

    upstream = auscult.load(f"lighthubert:{file}@{MIXED}")
    assert isinstance(upstream, LightHubertUpstream)
    export_subnet(upstream, tmp_path / "cut")
    again = auscult.load(f"lighthubert:{tmp_path / 'cut'}")
    assert isinstance(again, LightHubertUpstream)
    assert again.space == SPACE and again.spec.sha256 == upstream.spec.sha256
    largest = auscult.load(f"lighthubert:{file}@largest")
    assert isinstance(largest, LightHubertUpstream)
    export_transformers(largest, tmp_path / "hf")
    model = HubertModel.from_pretrained(tmp_path / "hf").eval()
    samples = torch.randn(1, 4000, generator=torch.Generator().manual_seed(2))
    normalized = torch.nn.functional.layer_norm(samples, (4000,))
    with torch.no_grad():
        found = model(normalized).last_hidden_state
        wanted = largest(Waveforms.of([samples[0]])).layers[-1]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dims": (32, 60)}, "embed_dim is 60; expected a multiple of 8"),
        ({"embed_dims": (64, 96)}, "embed_dim is 96, and 64 are stored"),
        ({"heads": (5,)}, "heads are 5, and 4 are stored"),
        ({"depths": (5,)}, "depth is 5; LightHuBERT defines 1, 2, 3 or 4"),
        ({"ratios": (2.0, 2.3)}, "ratio 2.3 of embed_dim 32 is 73.6; expected a whole number"),
        ({"ratios": (4.0,)}, "ratio 4 of embed_dim 32 needs more than the 192"),
    ],
)
def test_spaces_that_cannot_be(changes: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_space("custom", STORED, **{**CHOICES, **changes})


def test_a_positional_kernel_that_is_odd() -> None:
    with pytest.raises(UserError, match="kernel is 15; expected an even one"):
        build_space("custom", replace(STORED, position_kernel=15), **CHOICES)


def without_heads(found: dict[str, Any]) -> None:
    del found["heads"]


def with_text(found: dict[str, Any]) -> None:
    found["stored"]["width"] = "64"


def with_none(found: dict[str, Any]) -> None:
    found["depths"] = []


def too_wide(found: dict[str, Any]) -> None:
    found["embed_dims"] = [128]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_heads, "model.pt: its search space: expected a table of name, embed_dims"),
        (with_text, "width holds '64'; expected a positive number"),
        (with_none, r"depths is \[\]; expected a list of numbers"),
        (too_wide, "embed_dim is 128, and 64 are stored"),
    ],
)
def test_tables_that_are_refused(spoil: Callable[[dict[str, Any]], None], message: str) -> None:
    found = describe_space(SPACE)
    assert read_space(found, Path("model.pt")) == SPACE
    spoil(found)
    with pytest.raises(UserError, match=message):
        read_space(found, Path("model.pt"))


def test_a_space_of_another_width_in_a_file(file: Path) -> None:
    content = torch.load(file, weights_only=True)
    content["cfg"]["model"]["space"]["stored"]["channels"] = 9
    torch.save(content, file)
    with pytest.raises(UserError, match=r"holds .* expected float32"):
        auscult.load(f"lighthubert:{file}")
