"""Search spaces, drawing and counting, held to the published numbers and to the reference."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from auscult import bridge
from auscult.cost import superb_macs
from auscult.errors import UserError
from auscult.upstreams.lighthubert.cost import count_macs, count_parameters, count_superb_macs
from auscult.upstreams.lighthubert.network import num_frames
from auscult.upstreams.lighthubert.space import (
    BASE,
    SMALL,
    SPACES,
    ExtractorMode,
    SearchSpace,
    Subnet,
    ffn_dim,
    ffn_rows,
    kept_layers,
    uniform,
)


def cycling(
    embed_dim: int, depth: int, heads: tuple[int, ...], ratios: tuple[float, ...]
) -> Subnet:
    return Subnet(
        embed_dim,
        tuple(heads[i % len(heads)] for i in range(depth)),
        tuple(ffn_dim(embed_dim, ratios[i % len(ratios)]) for i in range(depth)),
    )


MIXED = cycling(512, 11, SMALL.heads, SMALL.ratios)
MIXED_BASE = cycling(640, 12, BASE.heads, BASE.ratios)


@pytest.mark.parametrize(("space", "size"), [(SMALL, 951_892_141_473), (BASE, 6_530_347_008)])
def test_number_of_subnets(space: SearchSpace, size: int) -> None:
    assert space.num_subnets == size
    assert SPACES[space.name] is space


def test_number_of_subnets_of_a_space_that_can_be_listed() -> None:
    space = replace(SMALL, depths=(1, 2), heads=(4, 6))
    drawn = {str(space.sample(seed)) for seed in range(4_000)}
    assert len(drawn) == space.num_subnets == 3 * (6 + 36)


def test_named_corners() -> None:
    assert SMALL.default == uniform(384, 12, 6, 4.0) and SMALL.default.ffn_dims == (1536,) * 12
    assert BASE.default == uniform(640, 12, 10, 4.0) and BASE.default.ffn_dims == (2560,) * 12
    assert SMALL.smallest == uniform(256, 10, 4, 3.0)
    assert SMALL.largest == uniform(512, 12, 8, 4.0)
    assert BASE.smallest == uniform(512, 12, 8, 3.5)
    assert BASE.largest == uniform(768, 12, 12, 4.0)


def test_kept_layers() -> None:
    everything = set(range(12))
    dropped = {depth: everything - set(kept_layers(depth)) for depth in range(6, 13)}
    assert dropped == {
        12: set(),
        11: {11},
        10: {7, 11},
        9: {3, 7, 11},
        8: {3, 7, 10, 11},
        7: {3, 6, 7, 10, 11},
        6: {2, 3, 6, 7, 10, 11},
    }
    assert kept_layers(10) == (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)
    with pytest.raises(UserError, match=r"depth is 5; LightHuBERT defines 6, 7.* or 12"):
        kept_layers(5)


@pytest.mark.parametrize(
    ("embed_dim", "width", "rows"),
    [
        (256, 768, [(0, 256), (768, 1024), (1536, 1792)]),
        (384, 1344, [(0, 384), (768, 1152), (1536, 1920), (2304, 2496)]),
        (384, 1536, [(0, 384), (768, 1152), (1536, 1920), (2304, 2688)]),
        (512, 1792, [(0, 512), (768, 1280), (1536, 2048), (2304, 2560)]),
        (512, 2048, [(0, 512), (768, 1280), (1536, 2048), (2304, 2816)]),
        (640, 2240, [(0, 640), (768, 1408), (1536, 2176), (2304, 2624)]),
        (768, 2688, [(0, 2688)]),
        (768, 3072, [(0, 3072)]),
    ],
)
def test_feed_forward_rows(embed_dim: int, width: int, rows: list[tuple[int, int]]) -> None:
    assert ffn_rows(embed_dim, width) == rows
    assert sum(stop - start for start, stop in rows) == width


@pytest.mark.parametrize(
    ("subnet", "layer_norm", "group_norm"),
    [
        (SMALL.smallest, 11_449_088, 11_442_944),
        (SMALL.default, 26_879_744, 26_873_600),
        (SMALL.largest, 44_398_336, 44_392_192),
        (BASE.smallest, 41_249_536, 41_243_392),
        (BASE.default, 66_897_664, 66_891_520),
        (BASE.largest, 94_377_728, 94_371_584),
        (MIXED, 34_946_816, 34_940_672),
        (MIXED_BASE, 64_438_144, None),
    ],
)
def test_published_parameter_counts(
    subnet: Subnet, layer_norm: int, group_norm: int | None
) -> None:
    assert count_parameters(subnet, "layer_norm") == layer_norm
    assert group_norm in (None, count_parameters(subnet, "group_norm"))


@pytest.mark.parametrize(
    ("subnet", "products"),
    [
        (SMALL.smallest, 661.3),
        (SMALL.default, 857.1),
        (SMALL.largest, 1070.6),
        (BASE.smallest, 1035.3),
        (BASE.default, 1340.1),
        (BASE.largest, 1665.5),
    ],
)
def test_plain_macs(subnet: Subnet, products: float) -> None:
    macs = superb_macs(lambda samples: count_macs(subnet, samples)).sum
    assert round(macs.products / 1e9, 1) == products
    assert count_superb_macs(subnet) == macs.total > macs.products


def test_macs_of_the_largest_are_those_of_hubert_base() -> None:
    assert count_superb_macs(BASE.largest) == 1_669_156_022_848


def test_macs_count_the_frames_that_the_network_makes() -> None:
    lengths = torch.arange(350, 2_000)
    without, layer = Subnet(256, (), ()), Subnet(256, (0,), (1,))  # one neuron a frame, no heads
    for samples, frames in zip(lengths.tolist(), num_frames(lengths).tolist(), strict=True):
        added = count_macs(layer, samples).total - count_macs(without, samples).total
        assert added == 2 * 256 * frames


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (replace(SMALL.default, embed_dim=400), "embed_dim is 400.*expected 256, 384 or 512"),
        (uniform(384, 9, 6, 4.0), "depth is 9.*expected 10, 11 or 12"),
        (replace(SMALL.default, heads=(6,) * 11 + (5,)), r"heads\[11\] is 5.*4, 6 or 8"),
        (
            replace(SMALL.default, ffn_dims=(1536, 1024) + (1536,) * 10),
            r"ffn\[1\] is 1024.*1152, 1344 or 1536 \(3, 3.5 or 4 times embed_dim 384\)",
        ),
        (BASE.default, "embed_dim is 640, which the small space does not have"),
    ],
)
def test_check_names_the_field(broken: Subnet, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SMALL.check(broken)


def test_check_of_a_space_with_one_depth() -> None:
    with pytest.raises(UserError, match="depth is 11.*expected 12"):
        BASE.check(uniform(640, 11, 10, 4.0))
    for subnet in (BASE.smallest, BASE.default, BASE.largest, MIXED_BASE):
        BASE.check(subnet)


def test_a_subnet_has_heads_and_ffn_for_each_layer() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        Subnet(256, (4, 4), (768,))


def test_text() -> None:
    assert str(SMALL.default) == "embed=384,depth=12,heads=6,ffn=4"
    assert str(MIXED) == (
        "embed=512,depth=11,heads=4-6-8-4-6-8-4-6-8-4-6,ffn=3-3.5-4-3-3.5-4-3-3.5-4-3-3.5"
    )


def test_dict() -> None:
    found = MIXED.to_dict()
    assert found["atten_dim"][:3] == [256, 384, 512] and found["slide_wsz"] == ["global"] * 11
    assert found["layer_num"] == 11 and found["embed_dim"] == 512
    assert found["ffn_embed"][:3] == [1536, 1792, 2048] and found["heads_num"][:3] == [4, 6, 8]


@contextmanager
def reference_space(name: str) -> Iterator[Any]:
    """Yield the reference's search space; its random calls leave no trace."""
    bridge.repair()
    from s3prl.upstream.lighthubert.lighthubert.lighthubert import LightHuBERTSupernetConfig

    state = random.getstate()
    yield LightHuBERTSupernetConfig(name)
    random.setstate(state)


@pytest.mark.parametrize("space", [SMALL, BASE], ids=lambda space: space.name)
def test_draws_are_those_of_the_reference(space: SearchSpace) -> None:
    with reference_space(space.name) as reference:
        assert reference.num_subnets == space.num_subnets
        assert reference.min_subnet == space.smallest.to_dict()
        assert reference.max_subnet == space.largest.to_dict()
        default = {key: reference.subnet[key] for key in space.default.to_dict()}
        assert default == space.default.to_dict()
        for seed in range(20):
            random.seed(seed)
            generator = random.Random(seed)
            for _ in range(3):
                drawn = space.sample(generator)
                assert reference.sample_subnet() == drawn.to_dict()
                space.check(drawn)
            random.seed(seed)
            assert reference.sample_subnet() == space.sample(seed).to_dict()


@pytest.mark.parametrize(
    ("mode", "name"), [("layer_norm", "layer_norm"), ("group_norm", "default")]
)
def test_parameter_counts_are_those_of_the_reference(mode: ExtractorMode, name: str) -> None:
    bridge.repair()
    from s3prl.upstream.lighthubert.lighthubert.lighthubert import LightHuBERT, LightHuBERTConfig

    reference = LightHuBERT(LightHuBERTConfig({"extractor_mode": name}))
    subnets = [space.sample(seed) for space in (SMALL, BASE) for seed in range(4)]
    subnets += [cycling(384, depth, (4, 8), (3.0, 4.0)) for depth in range(6, 10)]
    assert {subnet.depth for subnet in subnets} >= {6, 7, 8, 9, 10, 11, 12}
    worst = 0
    for subnet in subnets:
        reference.set_sample_config(subnet.to_dict())
        found = reference.calc_sampled_param_num()
        worst = max(worst, abs(found - count_parameters(subnet, mode)))
    print(f"parity: LightHuBERT parameters of {len(subnets)} subnets, {mode} {worst}")
    assert worst == 0
    reference.set_sample_config(SMALL.smallest.to_dict())  # the comparison sees a difference
    assert reference.calc_sampled_param_num() != count_parameters(SMALL.default, mode)


@pytest.mark.parametrize("space", [SMALL, BASE], ids=lambda space: space.name)
def test_feed_forward_rows_are_those_of_the_reference(space: SearchSpace) -> None:
    bridge.repair()
    from s3prl.upstream.lighthubert.lighthubert.modules.scaling_linear import SLinear

    layer: Any = SLinear(8, 3072, bias=False, out_splits=4)
    rows = torch.arange(3072)
    layer.weight.data = rows[:, None].float().expand(-1, 8)
    for embed_dim in space.embed_dims:
        for ratio in space.ratios:
            width = ffn_dim(embed_dim, ratio)
            layer.set_sample_config(8, width, 1, ratio)
            ours = torch.cat([rows[start:stop] for start, stop in ffn_rows(embed_dim, width)])
            torch.testing.assert_close(layer.samples["weight"][:, 0].long(), ours)
