"""SUPERB's count of multiply-accumulates: published sums to the last digit."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import auscult
from auscult.cost import (
    BUCKETS,
    SUPERB_LENGTHS,
    SUPERB_SECONDS,
    Macs,
    attention_macs,
    extractor_macs,
    feed_forward_macs,
    positional_macs,
    superb_macs,
)
from auscult.testing import noise
from auscult.upstreams import outline_upstream

KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)


def transformer(dim: int, blocks: int, heads: int, inner: int) -> Callable[[int], Macs]:
    """Return the count of wav2vec 2.0's architecture, heads of ``dim / heads``."""

    def count(samples: int) -> Macs:
        frames = (samples - 400) // 320 + 1
        front = extractor_macs(samples, (512,) * 7, KERNELS, STRIDES)
        front += Macs(frames * 512 * dim) + positional_macs(frames, dim, kernel=128, groups=16)
        block = attention_macs(frames, dim, heads, dim) + feed_forward_macs(frames, dim, inner)
        return front + block * blocks

    return count


def test_hubert_base_as_the_challenge_published_it() -> None:
    found = superb_macs(transformer(768, 12, 12, 3072))
    assert found.sum.total == 1_669_156_022_848
    assert found.sum.products == 1_665_522_780_160
    assert [round(m.total / 1e9, 2) for m in found.buckets] == [149.26, 261.28, 422.37, 836.25]


@pytest.mark.parametrize(
    ("dims", "giga"),
    [
        ((1024, 24, 16, 4096), 4316.0),  # HuBERT Large
        ((384, 12, 6, 1536), 857.1),  # LightHuBERT's a_small
        ((640, 12, 10, 2560), 1340.1),  # LightHuBERT's a_base
        ((256, 10, 4, 768), 661.3),  # LightHuBERT Small's smallest
        ((512, 12, 8, 2048), 1070.6),  # and largest
        ((512, 12, 8, 1792), 1035.3),  # LightHuBERT Base's smallest
        ((768, 2, 12, 3072), 785.3),  # DistilHuBERT
    ],
)
def test_products_alone(dims: tuple[int, int, int, int], giga: float) -> None:
    assert round(superb_macs(transformer(*dims)).sum.products / 1e9, 1) == giga


@pytest.mark.parametrize(
    ("shape", "total", "products"),
    [
        ("hubert_base", 1_669_156_022_848, 1_665_522_780_160),
        ("wav2vec2_base", 1_669_156_022_848, 1_665_522_780_160),
        ("hubert_large", 4_325_706_974_720, 4_316_018_327_552),
        ("distilhubert", 785_923_136_608, 785_317_596_160),
    ],
)
def test_shapes(shape: str, total: int, products: int) -> None:
    found = superb_macs(outline_upstream(shape).count_macs).sum
    assert (found.total, found.products) == (total, products)


@pytest.mark.parametrize(
    ("shape", "published", "within"),
    [
        ("hubert_base", 1.669e12, 0.0005e12),
        ("wav2vec2_base", 1.669e12, 0.0005e12),
        ("wav2vec2_large", 4.326e12, 0.0005e12),
        ("wavlm_base", 1.670e12, 0.0005e12),
        ("distilhubert", 7.85e11, 0.01e11),
        ("data2vec_audio_base", 1.657e12, 0.002e12),  # 0.1 %: profiled on another attention
    ],
)
def test_shapes_as_the_leaderboard_prints_them(shape: str, published: float, within: float) -> None:
    found = superb_macs(outline_upstream(shape).count_macs).sum.total
    assert found == pytest.approx(published, abs=within, rel=0)


def test_hubert_large_was_published_without_dropout() -> None:
    """Its configuration drops no attention weights, and the profiler skipped what is not there."""
    total = superb_macs(outline_upstream("hubert_large").count_macs).sum.total
    frames = [(samples - 400) // 320 + 1 for row in SUPERB_LENGTHS for samples in row]
    dropout = 24 * 16 * sum(n**2 for n in frames)
    assert round(total / 1e9) == 4326 and round((total - dropout) / 1e9) == 4324


def test_products_of_a_subnet_are_those_that_torch_counts() -> None:
    subnet = "embed=384,depth=10,heads=4-6-8-4-6-8-4-6-8-4,ffn=3.5"
    upstream = auscult.load(f"random(lighthubert_small@{subnet})")
    for samples in (5123, 7680):  # frames odd and even in number
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            # where maps are asked for, attention is made of products that the counter sees
            upstream.visit_attention(noise(upstream, [samples]), lambda found: None)
        assert upstream.count_macs(samples).products == counter.get_total_flops() // 2


def test_lengths_are_those_of_the_challenge() -> None:
    lengths = [samples for row in SUPERB_LENGTHS for samples in row]
    assert len(lengths) == 32 and lengths == sorted(lengths)
    assert [len(row) for row in SUPERB_LENGTHS] == [8] * len(BUCKETS)
    assert sum(SUPERB_SECONDS) == pytest.approx(224.86, abs=1e-9)


def test_extras_of_attention_term_by_term() -> None:
    frames, dim, heads, inner = 7, 24, 4, 16
    found = attention_macs(frames, dim, heads, inner)
    projections = 3 * frames * dim * inner + frames * inner * dim
    maps = 2 * frames * frames * inner  # queries by keys, weights by values
    assert found.products == projections + maps
    biases, scaling = 3 * frames * inner, frames * inner
    mask, softmax, dropout = frames**2 * heads, 2 * frames**2 * heads, frames**2 * heads
    assert found.extras == biases + scaling + mask + softmax + dropout
    assert found.total == found.products + found.extras


def test_an_extractor_sees_no_frame_in_too_little_audio() -> None:
    assert extractor_macs(9, (4, 4), (10, 3), (5, 2)) == Macs(0)
    assert extractor_macs(10, (4, 4), (10, 3), (5, 2)) == Macs(10 * 4)
    assert extractor_macs(20, (4, 4), (10, 3), (5, 2)) == Macs(3 * 10 * 4 + 1 * 3 * 4 * 4)


def test_an_even_positional_kernel_makes_a_frame_too_many() -> None:
    assert positional_macs(5, 8, kernel=3, groups=2) == Macs(5 * 3 * 8 * 4)
    assert positional_macs(5, 8, kernel=4, groups=2) == Macs(6 * 4 * 8 * 4)
