"""The grammar of subnets, and the budget search against a list of all subnets."""

import itertools
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from auscult.errors import UserError
from auscult.upstreams.lighthubert.budget import largest_within
from auscult.upstreams.lighthubert.cost import count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.space import (
    BASE,
    SMALL,
    SearchSpace,
    Subnet,
    ffn_dim,
    uniform,
)
from auscult.upstreams.lighthubert.subnet import parse_subnet, read_subnet

PARAMETERS = partial(count_parameters, extractor_mode="layer_norm")
HETEROGENEOUS = "embed=512,depth=11,heads=4-6-8-4-6-8-4-6-8-4-6,ffn=3.5-3-4-3-3-3-3-3-3-3-4"


def small(text: str) -> Subnet:
    return parse_subnet(text, SMALL, "layer_norm")


@pytest.mark.parametrize(
    ("text", "space", "subnet"),
    [
        ("", SMALL, uniform(384, 12, 6, 4.0)),
        ("", BASE, uniform(640, 12, 10, 4.0)),
        ("a_small", SMALL, SMALL.default),
        ("a_base", BASE, BASE.default),
        (" smallest ", SMALL, SMALL.smallest),
        ("largest", BASE, BASE.largest),
        ("random(7)", BASE, BASE.sample(7)),
        ("random(seed=7)", SMALL, SMALL.sample(7)),
        ("embed=256,depth=10,heads=4,ffn=3", SMALL, SMALL.smallest),
        ("ffn=3.0, heads=4, depth=10, embed=256", SMALL, SMALL.smallest),
    ],
)
def test_names_and_fields(text: str, space: SearchSpace, subnet: Subnet) -> None:
    assert parse_subnet(text, space, "layer_norm") == subnet


def test_one_value_for_each_layer() -> None:
    subnet = small(HETEROGENEOUS)
    assert subnet.heads == (4, 6, 8, 4, 6, 8, 4, 6, 8, 4, 6)
    assert subnet.ffn_dims == (1792, 1536, 2048, *[1536] * 7, 2048)
    assert str(subnet) == HETEROGENEOUS


@pytest.mark.parametrize("space", [SMALL, BASE], ids=lambda space: space.name)
def test_text_and_file_come_back(space: SearchSpace, tmp_path: Path) -> None:
    corners = [space.smallest, space.default, space.largest]
    for i, subnet in enumerate([*corners, *map(space.sample, range(50))]):
        assert parse_subnet(str(subnet), space, "layer_norm") == subnet
        path = tmp_path / f"{i}.json"
        path.write_text(json.dumps(subnet.to_dict()))
        assert parse_subnet(str(path), space, "layer_norm") == subnet
        assert read_subnet(subnet.to_dict(), space, "here") == subnet


def test_a_file_in_a_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.json").write_text(json.dumps({"subnet": SMALL.largest.to_dict()}))
    assert small("~/mine.json") == SMALL.largest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a_base", "of the base space, not of the small one"),
        ("a_smal", "'a_smal'. Did you mean a_small"),
        ("random", r"Did you mean random\(0\)"),
        ("random(x)", "Unknown form"),
        ("embed=500,depth=11,heads=4,ffn=3", "embed_dim is 500.*expected 256, 384 or 512"),
        ("embed=512,depth=9,heads=4,ffn=3", "depth is 9.*expected 10, 11 or 12"),
        ("embed=512,depth=999999999999,heads=4,ffn=3", "depth is 999999999999.*10, 11 or 12"),
        ("embed=512,depth=10,heads=5,ffn=3", r"heads\[0\] is 5.*expected 4, 6 or 8"),
        ("embed=512,depth=10,heads=4-4-4-4-4-4-4-4-4-9,ffn=3", r"heads\[9\] is 9"),
        ("embed=512,depth=10,heads=4,ffn=1536", r"ffn\[0\] is 1536.*3, 3.5 or 4 times the embed"),
        ("embed=512,depth=10,heads=4,ffn=nan", r"ffn\[0\] is nan"),
        ("embed=512,depth=10,heads=4-6-8,ffn=3", "heads has 3 values for 10 layers; give one"),
        ("embed=512,depth=10,heads=4,ffn=3-4", "ffn has 2 values for 10 layers"),
        ("embed=512,depth=10,heads=4.5,ffn=3", "heads has '4.5', which is no whole number"),
        ("embed=512,depth=10,heads=4-,ffn=3", "heads has '', which is no whole number"),
        ("embed=512,depth=10,heads=4,ffn=three", "ffn has 'three', which is no number"),
        ("embed=x,depth=10,heads=4,ffn=3", "embed has 'x', which is no whole number"),
        ("embed=512,heads=4", "depth and ffn not given; write embed=384"),
        ("embed=512,embed=512", "embed stands there twice"),
        ("embed=512,dept=10,heads=4,ffn=3", "Unknown field 'dept'. Did you mean depth"),
        ("embed=512,", "Unknown field ''"),
        ("params<=1", r"smallest subnet of the small space, embed=256.*has 11,449,088 parameters"),
        ("macs<=1G", "has 662,305,850,528 MACs over SUPERB's utterances"),
        ("params<40M", "write params<=40M"),
        ("params>=40M", "upper limit: write params<=40M"),
        ("params<=-3", "budget '-3' is no number; expected such as 40M"),
        ("params<=1e999999999", "is no number"),
        ("params<=40MB", "is no number"),
        ("flops<=40M", "Unknown field 'flops<'"),
        ("nosuch.json", "Subnet @nosuch.json: nosuch.json cannot be read: No such file"),
    ],
)
def test_mistakes(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        small(text)
    assert str(raised.value).startswith(f"Subnet @{text}: ") and str(raised.value).endswith(".")


def a_small_but(**fields: Any) -> Any:
    found = SMALL.default.to_dict() | fields
    return {key: value for key, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1], "expected an object with atten_dim"),
        (a_small_but(layer_num=None), "layer_num is missing; a subnet has atten_dim"),
        (a_small_but(heads=[6] * 12), "Unknown field 'heads'. Did you mean heads_num"),
        (a_small_but(embed_dim=384.0), "embed_dim is 384.0; expected a whole number"),
        (a_small_but(embed_dim=True), "embed_dim is True; expected a whole number"),
        (a_small_but(embed_dim=0), "embed_dim is 0; expected a whole number"),
        (a_small_but(layer_num=11), "atten_dim has 12 entries; layer_num is 11"),
        (a_small_but(heads_num=6), "heads_num is 6; expected a list with one entry a layer"),
        (a_small_but(heads_num=[6] * 11), "heads_num has 11 entries; layer_num is 12"),
        (
            a_small_but(heads_num=[6] * 11 + ["6"]),
            r"heads_num\[11\] is '6'; expected a whole number",
        ),
        (
            a_small_but(ffn_embed=[1536.5] * 12),
            r"ffn_embed\[0\] is 1536.5; expected a whole number",
        ),
        (
            a_small_but(atten_dim=[384, 256] * 6),
            r"atten_dim\[1\] is 256; expected 384, 64 \* heads_num",
        ),
        (a_small_but(slide_wsz=["global", 32] * 6), r"slide_wsz\[1\] is 32; expected 'global'"),
        (a_small_but(ffn_ratio=[4.0] * 11 + [3.5]), r"ffn_ratio\[11\] is 3.5; expected 4.0"),
        (a_small_but(ffn_embed=[1000] * 12), r"ffn\[0\] is 1000.*expected 1152, 1344 or 1536"),
        (a_small_but(heads_num=[10] * 12, atten_dim=[640] * 12), r"heads\[0\] is 10"),
    ],
)
def test_mistakes_in_a_file(found: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "subnet.json"
    path.write_text(json.dumps(found))
    with pytest.raises(UserError, match=message) as raised:
        small(str(path))
    assert str(path) in str(raised.value)
    with pytest.raises(UserError, match=f"here: .*{message}"):
        read_subnet(found, SMALL, "here")


@pytest.mark.parametrize("content", [b"\x80\x04}", b"[" * 100_000])
def test_a_file_that_is_not_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "subnet.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="the file is not JSON"):
        small(str(path))


def test_the_reference_s_default_with_its_ratios_is_read() -> None:
    found = SMALL.default.to_dict() | {"ffn_ratio": [4.0] * 12}
    assert read_subnet(found, SMALL, "here") == SMALL.default


@pytest.mark.parametrize(
    ("text", "space", "parameters"),
    [
        ("params<=11449088", SMALL, 11_449_088),
        ("params<=20M", SMALL, 19_985_408),
        ("params<=40M", SMALL, 39_937_536),
        ("params <= 0.0400g", SMALL, 39_937_536),
        ("params<=4e7", SMALL, 39_937_536),
        ("params<=1T", SMALL, 44_398_336),
        ("params<=1T", BASE, 94_377_728),
    ],
)
def test_budgets(text: str, space: SearchSpace, parameters: int) -> None:
    subnet = parse_subnet(text, space, "layer_norm")
    assert PARAMETERS(subnet) == parameters
    space.check(subnet)


def test_a_budget_counts_the_extractor(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "auscult")
    assert parse_subnet("params<=26873600", SMALL, "group_norm") == SMALL.default
    assert "embed=384,depth=12,heads=6,ffn=4 with 26,873,600 parameters and 858.9 G" in caplog.text
    assert PARAMETERS(small("params<=26873600")) < 26_873_600


def test_macs_within_a_budget_beat_every_draw() -> None:
    subnet = small("macs<=800G")
    cost = count_superb_macs(subnet)
    within = [c for c in map(count_superb_macs, map(SMALL.sample, range(300))) if c <= 800e9]
    assert len(within) > 10 and max(within) <= cost <= 800e9
    assert count_superb_macs(small(f"macs<={cost - 1}")) < cost


SPACE = SearchSpace("listed", (256, 384), (4, 6, 8), (3.0, 3.5, 4.0), (1, 2), SMALL.default)
UNEVEN = SearchSpace("uneven", (256, 512), (4, 5, 12), (1.0, 3.0, 3.25), (2, 3), SMALL.default)


def everything(space: SearchSpace) -> list[Subnet]:
    subnets = []
    for embed_dim, depth in itertools.product(space.embed_dims, space.depths):
        widths = [ffn_dim(embed_dim, ratio) for ratio in space.ratios]
        for heads in itertools.product(space.heads, repeat=depth):
            for ffn_dims in itertools.product(widths, repeat=depth):
                subnets.append(Subnet(embed_dim, heads, ffn_dims))
    return subnets


def rank(subnet: Subnet) -> tuple[int, ...]:
    """Return what the documented order of equally expensive subnets goes by."""
    uneven = [sum(x * x for x in sizes) for sizes in (subnet.heads, subnet.ffn_dims)]
    return subnet.embed_dim, subnet.depth, sum(subnet.heads), -uneven[0], -uneven[1]


@pytest.mark.parametrize("space", [SPACE, UNEVEN], ids=lambda space: space.name)
@pytest.mark.parametrize("count", [PARAMETERS, count_superb_macs], ids=["params", "macs"])
def test_the_search_finds_what_listing_all_finds(
    space: SearchSpace, count: Callable[[Subnet], int]
) -> None:
    subnets = everything(space)
    assert len(set(subnets)) == space.num_subnets >= 180
    costs: dict[int, list[Subnet]] = {}
    for subnet in subnets:
        costs.setdefault(count(subnet), []).append(subnet)
    assert len(costs) < len(subnets)  # there are ties to break
    ordered = sorted(costs)
    for i in range(0, len(ordered), max(1, len(ordered) // 60)):
        best = max(costs[ordered[i]], key=rank)
        canonical = replace(
            best, heads=tuple(sorted(best.heads)), ffn_dims=tuple(sorted(best.ffn_dims))
        )
        assert largest_within(space, ordered[i], count) == canonical
        if i:
            assert count(largest_within(space, ordered[i] - 1, count)) == ordered[i - 1]


def test_the_listing_sees_a_search_that_misses() -> None:
    best = max(PARAMETERS(subnet) for subnet in everything(SPACE))
    assert PARAMETERS(largest_within(SPACE, best, PARAMETERS)) == best
    assert PARAMETERS(largest_within(SPACE, best, lambda subnet: -PARAMETERS(subnet))) < best
