"""LightHuBERT's numbers: published values, and the reference implementation inside s3prl.

Weights and audio are deterministic noise, so that every value can be had again without a download.
"""

import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from auscult import bridge
from auscult.upstreams.lighthubert import slicing
from auscult.upstreams.lighthubert.cost import count_parameters
from auscult.upstreams.lighthubert.network import LightHubert
from auscult.upstreams.lighthubert.space import (
    BASE,
    SMALL,
    Dimensions,
    ExtractorMode,
    SearchSpace,
    Subnet,
    ffn_dim,
)
from auscult.upstreams.lighthubert.supernet import Supernet

# Printed with five digits after the point; float32 sums in another order change the last of them.
TOLERANCE = 5e-5
MODES: tuple[ExtractorMode, ...] = ("layer_norm", "group_norm")


def noise(size: int, seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Hash 0 ... size - 1 into (-0.5, 0.5), modulo 2^32."""
    x = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
    x += np.uint32((seed * 40503 + 12345) % 2**32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    return x / 2**32 - 0.5


def audio(size: int, seed: int = 7) -> Tensor:
    """Noise under a tone of 220 Hz."""
    tone = np.sin(2 * np.pi * 220 * np.arange(size) / 16_000)
    return torch.from_numpy(0.5 * noise(size, seed) + 0.3 * tone).float()


@cache
def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    u = noise(math.prod(shape), sum(map(ord, name))).reshape(shape)
    if name.endswith("weight_g") or (len(shape) == 1 and name.endswith("weight")):
        values = 1 + 0.2 * u
    elif len(shape) >= 2:
        values = u * math.sqrt(12 / math.prod(shape[1:]))
    else:
        values = 0.2 * u
    return torch.from_numpy(values).float()


@pytest.fixture(scope="module", autouse=True)
def forget_weights() -> Iterator[None]:
    yield
    weight.cache_clear()


@pytest.fixture(scope="module")
def supernets() -> Mapping[ExtractorMode, Supernet]:
    """One for each extractor; both share the tensors that have the same names."""
    found: dict[ExtractorMode, Supernet] = {}
    for mode in MODES:
        with torch.device("meta"):
            supernet = Supernet(mode)
        wanted = supernet.state_dict()
        state = {name: weight(name, tuple(tensor.shape)) for name, tensor in wanted.items()}
        supernet.load_state_dict(state, assign=True)
        found[mode] = supernet.eval().requires_grad_(False)
    return found


def cycled(embed: int, depth: int, heads: tuple[int, ...], ratios: tuple[float, ...]) -> Subnet:
    widths = [ffn_dim(embed, ratios[i % len(ratios)]) for i in range(depth)]
    return Subnet(embed, tuple(heads[i % len(heads)] for i in range(depth)), tuple(widths))


SUBNETS = {
    "smallest": SMALL.smallest,
    "a_small": SMALL.default,
    "mixed": cycled(512, 11, (4, 6, 8), (3.0, 3.5, 4.0)),
    "a_base": BASE.default,
    "mixed_base": cycled(640, 12, (8, 10, 12), (3.5, 4.0)),
    "largest": BASE.largest,
}

# Of 8000 samples: extractor, subnet, state; mean and deviation, the first four values of the first
# frame, the last four of the last.
ALONE = """
layer_norm smallest 0 -0.031630 1.002389 -1.49416 -0.15485 0.91194 -0.53230 1.48960 -0.66306 1.11180 -0.63054
layer_norm smallest 1 -0.005302 1.004615 -1.59024 -0.04239 0.61569 -0.72456 1.18826 -1.30438 1.17464 -0.68204
layer_norm smallest 10 -0.005977 1.019328 -0.74173 0.09619 -0.76864 0.39581 -0.02333 -1.66631 1.65510 -0.57648
layer_norm a_small 1 -0.005065 1.003957 -1.73789 -0.27591 0.60429 -0.25155 0.20636 -0.93378 -0.41586 -0.66859
layer_norm a_small 12 -0.005161 1.006292 -0.33526 -0.84609 0.22765 -0.09920 -0.50599 0.10947 -0.38296 -0.77932
layer_norm mixed 1 -0.003815 1.002599 -1.58599 0.19190 0.70433 -0.89506 0.53453 -0.27776 0.83543 -0.30955
layer_norm mixed 11 -0.005024 1.006355 0.17661 0.17217 1.27390 -1.37462 -1.59506 -1.05768 0.08945 -0.59850
layer_norm a_base 1 -0.005571 1.004008 -1.62907 0.21290 -0.17767 -0.37480 -1.68667 -0.21820 -1.51830 -0.00013
layer_norm a_base 12 -0.005632 1.009499 -0.71529 1.55085 -0.60015 0.41078 0.25748 0.63530 0.23260 -0.27653
layer_norm mixed_base 12 -0.004462 1.006750 -0.21259 1.37917 -0.38810 0.65323 -0.13224 -0.10230 2.12282 1.01180
layer_norm largest 0 -0.049110 1.003498 -1.49416 -0.15485 0.91194 -0.53230 -0.60966 0.48092 0.51709 0.74013
layer_norm largest 12 -0.007416 1.009507 -0.39199 -0.46977 0.69499 -0.79394 0.48015 -0.96413 -1.43217 0.35998
group_norm smallest 10 -0.004270 1.018605 -0.37126 0.58789 -1.13803 0.11432 0.74282 -1.48294 0.27022 -0.46118
group_norm a_small 0 -0.037799 0.997326 0.23208 0.40159 0.07638 -0.38468 -0.11618 -0.54410 0.00833 0.52880
group_norm a_small 12 -0.004561 1.015184 -1.64343 0.26718 -0.73821 -0.83475 0.25019 -0.47347 -0.25854 -0.81697
group_norm mixed 11 -0.003916 1.006897 0.36270 -1.86996 -0.49399 0.52457 -1.63845 -0.97826 0.66776 -0.10372
group_norm a_base 12 -0.006934 1.012829 -0.38716 0.87794 -0.51844 0.90052 -0.23748 1.48187 0.02202 -0.72812
group_norm largest 12 -0.006522 1.008960 -0.41857 1.21897 -0.16863 -0.45046 0.31596 -1.26467 -1.02778 0.71208
"""  # noqa: E501

# The last state of 16,000 samples (49 frames) and of 12,000 others (37 frames).
LONG = """
layer_norm a_small -0.004981 1.006230 -0.38707 -0.78357 0.01370 -0.09415 -0.80931 0.13195 -0.38136 -0.91761
layer_norm mixed -0.005125 1.006317 0.07170 0.13400 1.27485 -1.35168 -1.37996 -1.04102 0.09438 -0.67831
group_norm a_small -0.003528 1.013880 -1.56826 0.12577 -0.96030 -0.87159 -0.70334 0.29649 -0.03214 -1.06653
"""  # noqa: E501
SHORT = """
layer_norm a_small -0.005070 1.006544 -0.37089 -0.54406 0.03408 -0.39956 -0.68483 0.34810 -0.31671 -0.87218
layer_norm mixed -0.005464 1.006125 -0.25721 0.22412 1.30428 -1.44092 -1.51005 -0.99219 -0.14601 -0.96912
group_norm a_small -0.003548 1.012638 -1.67973 0.46047 -1.23652 -0.96963 -0.42824 0.11033 -0.27744 -1.01030
"""  # noqa: E501
# What the reference gives for the short one beside the long one: its group norm sees the padding.
CONTAMINATED = """
group_norm a_small -0.003271 1.012876 -1.60854 0.63734 -1.11250 -1.07349 -0.55390 0.11644 -0.20578 -1.08396
"""  # noqa: E501


def rows(table: str) -> list[tuple[list[str], list[float]]]:
    """Split each line into words and the ten numbers that end it."""
    lines = [line.split() for line in table.strip().splitlines()]
    return [(line[:-10], [float(value) for value in line[-10:]]) for line in lines]


def summary(state: Tensor) -> list[float]:
    """Describe one utterance's state (frame, dim) by the ten numbers of a row."""
    moments = [float(state.mean()), float(state.std(correction=0))]
    return [*moments, *state[0, :4].tolist(), *state[-1, -4:].tolist()]


def distance(state: Tensor, expected: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(summary(state), expected, strict=True))


def encode(network: LightHubert, *waveforms: Tensor) -> tuple[Tensor, ...]:
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    with torch.no_grad():
        states: tuple[Tensor, ...] = network(
            torch.nn.utils.rnn.pad_sequence(list(waveforms), batch_first=True), lengths
        )
    return states


def test_the_noise_is_the_published_one() -> None:
    expected = [-0.28334696, -0.35776654, 0.48836223, -0.14805345, 0.20697172]
    assert noise(5, 7) == pytest.approx(expected, abs=1e-8)
    assert audio(2).tolist() == pytest.approx([-0.141673, -0.152997], abs=1e-6)
    assert float(audio(8000).std(correction=0)) == pytest.approx(0.255059, abs=1e-6)


def test_one_utterance(supernets: Mapping[ExtractorMode, Supernet]) -> None:
    table = rows(ALONE)
    assert len(table) == 18
    off = []
    states: dict[tuple[str, str], tuple[Tensor, ...]] = {}
    for (mode, name, state), expected in table:
        if (mode, name) not in states:
            network = supernets[cast(ExtractorMode, mode)].cut(SUBNETS[name])
            states[mode, name] = encode(network, audio(8000))
            assert len(states[mode, name]) == SUBNETS[name].depth + 1
        off.append(distance(states[mode, name][int(state)][0], expected))
    print(f"parity: LightHuBERT, {len(table)} published states {max(off):.1e}")
    assert max(off) < TOLERANCE


def test_odd_frames_and_padding(supernets: Mapping[ExtractorMode, Supernet]) -> None:
    """The short one's row is the same alone and in the batch, as the reference's is not."""
    table = list(zip(rows(LONG), rows(SHORT), strict=True))
    assert len(table) == 3
    first, second = audio(16_000, 7), audio(12_000, 11)
    for ((mode, name), long), (_, short) in table:
        network = supernets[cast(ExtractorMode, mode)].cut(SUBNETS[name])
        together = encode(network, first, second)[-1]
        assert together.shape[1] == 49
        assert distance(encode(network, first)[-1][0], long) < TOLERANCE
        assert distance(encode(network, second)[-1][0], short) < TOLERANCE
        assert distance(together[0], long) < TOLERANCE
        assert distance(together[1, :37], short) < TOLERANCE
        for (_, contaminated_name), contaminated in rows(CONTAMINATED):
            if (mode, name) == ("group_norm", contaminated_name):
                assert distance(together[1, :37], contaminated) > 0.01


def contiguous_rows(embed_dim: int, width: int, stored: Dimensions) -> list[tuple[int, int]]:
    return [(0, width)]


def last_layers_dropped(depth: int, stored: Dimensions) -> tuple[int, ...]:
    return tuple(range(depth))


def cut_before_norm(norm: Tensor, direction: Tensor) -> Tensor:
    part = direction[:384, :24]
    whole = torch.zeros_like(direction)
    whole[:384, :24] = part * (norm / torch.linalg.vector_norm(part, dim=(0, 1), keepdim=True))
    return whole


@pytest.mark.parametrize(
    ("function", "broken", "subnet"),
    [
        ("ffn_rows", contiguous_rows, "a_small"),
        ("kept_layers", last_layers_dropped, "smallest"),
        ("position_weight", cut_before_norm, "a_small"),
    ],
)
def test_other_slicing_is_seen(
    function: str,
    broken: Any,
    subnet: str,
    supernets: Mapping[ExtractorMode, Supernet],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slicing, function, broken)
    last = str(SUBNETS[subnet].depth)
    (expected,) = [row for words, row in rows(ALONE) if words == ["layer_norm", subnet, last]]
    network = supernets["layer_norm"].cut(SUBNETS[subnet])
    assert distance(encode(network, audio(8000))[-1][0], expected) > 0.01


def reference(mode: ExtractorMode, state: Mapping[str, Tensor]) -> Any:
    """Build the authors' network, in the copy that s3prl ships, with the weights of ours."""
    bridge.repair()
    from s3prl.upstream.lighthubert.lighthubert.lighthubert import LightHuBERT, LightHuBERTConfig

    name = {"layer_norm": "layer_norm", "group_norm": "default"}[mode]
    with torch.random.fork_rng(devices=[]):
        network = LightHuBERT(LightHuBERTConfig({"extractor_mode": name}))
    network.load_state_dict(dict(state), strict=True, assign=True)
    return network.eval()


def drawn(space: SearchSpace) -> list[Subnet]:
    """Draw one subnet for each depth, whose layers are not all alike."""
    found: dict[int, Subnet] = {}
    for seed in range(100):
        subnet = space.sample(seed)
        if len(set(subnet.heads)) > 1 and len(set(subnet.ffn_dims)) > 1:
            found.setdefault(subnet.depth, subnet)
    assert set(found) == set(space.depths)
    return list(found.values())


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("mode", MODES)
def test_drawn_subnets_equal_the_reference(
    mode: ExtractorMode, supernets: Mapping[ExtractorMode, Supernet]
) -> None:
    supernet = supernets[mode]
    original = reference(mode, supernet.state_dict())
    subnets = [*drawn(SMALL), *drawn(BASE)]
    assert len(subnets) == 4
    waveform = audio(4240, 3)  # 13 frames
    off = 0.0
    for subnet in subnets:
        original.set_sample_config(subnet.to_dict())
        assert original.calc_sampled_param_num() == count_parameters(subnet, mode)
        with torch.no_grad():
            wanted, _ = original.extract_features(waveform[None], ret_hs=True)
        states = encode(supernet.cut(subnet), waveform)
        assert len(states) == len(wanted) == subnet.depth + 1
        for found, expected in zip(states, wanted, strict=True):
            # The original's convolutions are 1e-5 off float64 themselves, on values of unit size.
            torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)
            off = max(off, float((found - expected).abs().max()))
    print(f"parity: LightHuBERT, s3prl's copy of the original, {mode} {off:.1e}")


PUBLISHED_SIZES = {
    "small, smallest": (SMALL.smallest, 11_442_944, 11_449_088),
    "a_small": (SMALL.default, 26_873_600, 26_879_744),
    "small, largest": (SMALL.largest, 44_392_192, 44_398_336),
    "base, smallest": (BASE.smallest, 41_243_392, 41_249_536),
    "a_base": (BASE.default, 66_891_520, 66_897_664),
    "base, largest": (BASE.largest, 94_371_584, 94_377_728),
    "mixed": (SUBNETS["mixed"], 34_940_672, 34_946_816),
    "mixed_base": (SUBNETS["mixed_base"], None, 64_438_144),
}


@pytest.mark.parametrize("name", list(PUBLISHED_SIZES))
def test_parameters(name: str) -> None:
    subnet, group_norm, layer_norm = PUBLISHED_SIZES[name]
    for mode, published in (("group_norm", group_norm), ("layer_norm", layer_norm)):
        with torch.device("meta"):
            network = LightHubert(subnet, cast(ExtractorMode, mode))
        count = sum(parameter.numel() for parameter in network.parameters())
        assert count == count_parameters(subnet, cast(ExtractorMode, mode))
        assert published is None or count == published


@pytest.mark.parametrize(
    ("mode", "stored"), [("group_norm", 94_961_536), ("layer_norm", 94_967_680)]
)
def test_stored_parameters(mode: ExtractorMode, stored: int) -> None:
    with torch.device("meta"):
        supernet = Supernet(mode)
    assert sum(parameter.numel() for parameter in supernet.parameters()) == stored
    assert supernet.get_parameter("layer_pred_heads.11.weight").numel() == 589_824
