"""Mockingjay and Audio ALBERT keep the contract, in chunks too; what they cost; their shapes."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import auscult
from auscult.contracts import AttentionMap, Waveforms
from auscult.cost import Macs
from auscult.testing import run_checks, upstream_checks
from auscult.upstreams import SHAPES, outline_upstream
from auscult.upstreams.mockingjay import (
    AlbertFrontEnd,
    Dimensions,
    MockingjayUpstream,
    OnlineFrontEnd,
    SpecHead,
    draw_mockingjay,
)
from auscult.upstreams.mockingjay.encoder import chunk_sizes
from auscult.upstreams.spectral import Recipe

FAMILIES = ("mockingjay", "audio_albert")
KALDI = Recipe("fbank", "fbank", 80, delta_order=2, cmvn=True)


def noise(size: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def tiny(share: bool, front_end: Any, sequence_length: int = 0) -> MockingjayUpstream:
    network = draw_mockingjay(
        Dimensions(input_dim=front_end.dim, num_layers=3, share=share, dim=24, heads=3, inner=32),
        seed=1,
    )
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():  # no bias zero, no norm one
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return MockingjayUpstream(
        network.eval(),
        front_end,
        name="tiny",
        source="tiny",
        sequence_length=sequence_length,
    )


@pytest.mark.parametrize("padding", ["group", "mask"])
@pytest.mark.parametrize(
    ("share", "front_end", "sequence_length"),
    [
        (False, OnlineFrontEnd(), 0),
        (True, OnlineFrontEnd(), 17),
        (True, OnlineFrontEnd(kind="linear", delta_order=1), 0),
        (False, AlbertFrontEnd(), 5),
        (True, AlbertFrontEnd(1), 0),
        (True, KALDI, 20),
    ],
)
def test_contract(share: bool, front_end: Any, sequence_length: int, padding: Any) -> None:
    encoder = tiny(share, front_end, sequence_length)
    encoder.padding = padding
    findings = list(run_checks(encoder))
    assert [f"{f.check}: {f.why}" for f in findings if f.why or not f.passed] == []
    assert len(findings) == len(list(upstream_checks())) >= 10


def test_a_leak_would_be_seen() -> None:
    encoder = tiny(False, OnlineFrontEnd())
    encoder.padding = "mask"
    forward = encoder.network.forward
    encoder.network.forward = lambda x, keys, visit: forward(x, None, visit)  # type: ignore
    failed = {finding.check for finding in run_checks(encoder) if not finding.passed}
    assert {"row_independence", "attention"} <= failed


class Watching(OnlineFrontEnd):
    def features(self, samples: Tensor) -> Tensor:
        assert not torch.is_autocast_enabled("cpu")
        return super().features(samples)


def test_low_precision_is_the_blocks_alone() -> None:
    encoder, audio = tiny(False, Watching()), Waveforms.of([noise(8000), noise(3000, 1)])
    with torch.no_grad():
        wanted = encoder(audio)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = encoder(audio)
    for a, b in zip(found.layers, wanted.layers, strict=True):
        for row, frames in enumerate(wanted.lengths):
            torch.testing.assert_close(a[row, :frames].float(), b[row, :frames], rtol=0, atol=0.1)


# --- chunks ----------------------------------------------------------------------------------


def test_chunks_are_torchs() -> None:
    for limit in range(1, 30):
        for frames in range(1, 120):
            count = -(-frames // limit)
            wanted = [len(chunk) for chunk in torch.chunk(torch.empty(frames), count)]
            assert chunk_sizes(frames, limit) == wanted
            assert max(wanted) <= limit
    assert chunk_sizes(10_000, 0) == [10_000]


def test_chunks_do_not_see_each_other() -> None:
    encoder = tiny(True, OnlineFrontEnd(), sequence_length=20)
    maps: list[AttentionMap] = []
    with torch.no_grad():
        encoder.visit_attention(Waveforms.of([noise(8000), noise(3000, 1)]), maps.append)
    sizes = chunk_sizes(51, 20)
    assert sizes == [17, 17, 17] and chunk_sizes(19, 20) == [19]
    within = torch.block_diag(*(torch.ones(size, size) for size in sizes)).bool()
    for found in maps:
        assert bool((found.weights[0, :, within] > 0).all())
        assert not bool(found.weights[0, :, ~within].any())
        assert bool((found.weights[1, :, :19, :19] > 0).all())


# --- cost and shapes -------------------------------------------------------------------------


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("sequence_length", [0, 30])
def test_macs_are_those_of_the_matrix_products(share: bool, sequence_length: int) -> None:
    encoder = tiny(share, OnlineFrontEnd(), sequence_length)
    frames = [torch.randn(1, n, 80) for n in chunk_sizes(101, sequence_length)]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for chunk in frames:
            encoder.network(chunk, None, lambda block, weights: None)
    found = encoder.count_macs(16_000)
    assert found.products == counter.get_total_flops() // 2
    extras = sum(3 * (4 * n * 24 + 4 * n * n * 3) for n in chunk_sizes(101, sequence_length))
    assert found == Macs(found.products, extras)


def test_a_shared_layer_costs_what_layers_cost() -> None:
    costs = [outline_upstream(f"{name}_3l").count_macs(160_000) for name in FAMILIES]
    assert costs[0] == costs[1]
    counts = [outline_upstream(f"{name}_3l").spec.num_parameters for name in FAMILIES]
    assert counts == [21_634_560, 7_458_816]


def test_published_counts() -> None:
    """The papers' numbers without the pretraining head, and the head that is not loaded."""
    wanted = {
        "mockingjay_3l": (21_634_560, 2_956_803),
        "mockingjay_6l": (42_898_176, 2_956_803),
        "mockingjay_12l": (85_425_408, 2_956_803),
        **{f"audio_albert_{n}l": (7_458_816, 2_956_803) for n in (3, 6, 12)},
        "mockingjay_s3prl_3l": (21_327_360, 653_648),
        "mockingjay_s3prl_12l": (85_118_208, 746_697),
        "audio_albert_s3prl_3l": (7_151_616, 653_648),
    }
    assert set(wanted) == {n for n, s in SHAPES.items() if s.family in FAMILIES}
    for name, counts in wanted.items():
        spec = outline_upstream(name).spec
        assert (spec.num_parameters, spec.head_parameters) == counts
        assert spec.sha256 == "" and name.startswith(spec.family)
    for target, count in ((3075, 2_956_803), (160, 715_168), (80, 653_648), (201, 746_697)):
        with torch.device("meta"):
            assert sum(p.numel() for p in SpecHead(target).parameters()) == count


def test_shapes_have_weights_of_a_seed() -> None:
    one, same, other = (
        auscult.load(f"random(audio_albert_s3prl_3l, seed={seed})").spec for seed in (1, 1, 2)
    )
    assert one.sha256 == same.sha256 != other.sha256
    assert (one.source, one.geometry.stride) == ("audio_albert_s3prl_3l", 160)


def test_what_changes_the_numbers_is_in_the_fingerprint() -> None:
    found = {
        tiny(share, front_end, length).spec.sha256
        for share, front_end, length in (
            (False, OnlineFrontEnd(), 0),
            (False, OnlineFrontEnd(), 30),
            (False, OnlineFrontEnd(cmvn=False), 0),
            (False, OnlineFrontEnd(target_level=-20.0), 0),
            (True, OnlineFrontEnd(), 0),
        )
    }
    assert len(found) == 5
