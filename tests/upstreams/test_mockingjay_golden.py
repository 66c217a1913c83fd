"""Mockingjay's features, states, attention and divergences against values kept from originals.

Those of s3prl were computed with its code, weights and samples being the noise below; those of the
papers' features with librosa 0.11, told to pad by reflection as it did when they were written.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from auscult.analysis import Divergence
from auscult.contracts import AttentionMap, Waveforms
from auscult.upstreams.mockingjay import (
    AlbertFrontEnd,
    Dimensions,
    Mockingjay,
    MockingjayUpstream,
    OnlineFrontEnd,
    SpecHead,
    draw_mockingjay,
)
from auscult.upstreams.mockingjay.front_end import _slopes
from auscult.upstreams.mockingjay.network import sinusoids

# Mean, deviation, first four of the first frame, last four of the last.
Golden = tuple[float, ...]
EMBEDDED: Golden = (
    *(-0.000625, 1.005037, -0.58225, 1.39435, 0.10801, 0.91024),
    *(0.55818, 0.06311, 0.61693, 0.85608),
)
FIRST: Golden = (
    *(-0.001944, 1.001577, -0.76421, 0.61386, -0.84098, 1.08989),
    *(0.87351, -0.96604, 1.26533, 0.55248),
)
STATES: dict[bool, tuple[Golden, ...]] = {
    False: (
        EMBEDDED,
        FIRST,
        (
            *(0.000060, 1.006630, -1.19341, 0.28002, -0.17332, -0.55963),
            *(0.26926, -0.87039, 1.53791, -0.13890),
        ),
        (
            *(-0.002744, 1.001287, -1.17157, 0.19975, -1.27628, 0.47196),
            *(0.43584, -1.50096, 0.66435, -0.79577),
        ),
    ),
    True: (
        EMBEDDED,
        FIRST,
        (
            *(-0.003218, 1.006950, -1.29145, -0.26615, -1.08061, 0.76243),
            *(0.44767, -1.09484, 1.73815, 0.75689),
        ),
        (
            *(-0.003633, 1.010836, -0.77190, -0.49378, -1.22846, 1.20800),
            *(0.38395, -1.36139, 1.36797, 0.61364),
        ),
    ),
}
HEAD: dict[bool, Golden] = {
    False: (
        *(0.065510, 0.995788, 1.39953, 0.12881, -0.73947, 2.68105),
        *(-0.57641, 1.23837, 0.47900, 0.27931),
    ),
    True: (
        *(-0.114604, 0.985697, 1.53487, -0.25229, 2.27242, 1.40680),
        *(-0.93103, 1.25670, -0.49217, -0.93385),
    ),
}
# Jensen-Shannon divergence in nats of layers 1 and 2, 1 and 3, 2 and 3: mean of heads, first head.
DIVERGENCES: dict[bool, tuple[tuple[float, ...], tuple[float, ...]]] = {
    False: ((0.161383, 0.150104, 0.134903), (0.159099, 0.146204, 0.144252)),
    True: ((0.065573, 0.110046, 0.033720), (0.065469, 0.112375, 0.032622)),
}
PARAMETERS = {False: 21_327_360, True: 7_151_616}


def noise(size: int, seed: int) -> np.ndarray:
    x = np.arange(size, dtype=np.uint32) * np.uint32(2654435761)
    x += np.uint32(seed * 40503 + 12345)
    x ^= x >> np.uint32(16)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    return x / 2**32 - 0.5


def wav(size: int) -> Tensor:
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(size) / 16_000)
    return torch.from_numpy((0.5 * noise(size, 7) + tone).astype(np.float32))


def fill(module: nn.Module) -> None:
    """Fill weights with noise whose seed is their name."""
    for name, parameter in module.named_parameters():
        u = noise(parameter.numel(), sum(map(ord, name)))
        if parameter.ndim >= 2:
            u *= math.sqrt(12 / math.prod(parameter.shape[1:]))
        elif name.endswith("weight"):
            u = 1 + 0.2 * u
        else:
            u *= 0.2
        parameter.data = torch.from_numpy(u.astype(np.float32)).view_as(parameter)


def summary(frames: Tensor) -> Tensor:
    return torch.tensor([frames.mean(), frames.std(correction=0), *frames[0, :4], *frames[-1, -4:]])


def assert_golden(found: Tensor, golden: Golden, atol: float = 5e-5) -> None:
    torch.testing.assert_close(summary(found), torch.tensor(golden), rtol=0, atol=atol)


@pytest.fixture(scope="module", params=[False, True], ids=["mockingjay", "audio_albert"])
def encoder(request: pytest.FixtureRequest) -> MockingjayUpstream:
    front_end = OnlineFrontEnd()
    network = Mockingjay(Dimensions(input_dim=80, num_layers=3, share=request.param))
    fill(network)
    return MockingjayUpstream(network.eval(), front_end, name="golden", source="noise")


def test_the_noise_is_the_noise() -> None:
    wanted = [-0.28334696, -0.35776654, 0.48836223, -0.14805345, 0.20697172]
    np.testing.assert_allclose(noise(5, 7), wanted, atol=1e-8)
    assert wav(8000).std(correction=0).item() == pytest.approx(0.255059, abs=1e-6)


def test_log_mel() -> None:
    found = OnlineFrontEnd(cmvn=False).features(wav(16_000))
    assert found.shape == (101, 80)
    golden = (-1.235504, 1.437360, -1.64581, -0.35931, 0.66686, 0.56443)
    assert_golden(found, (*golden, -2.08455, -0.58572, 0.51099, 0.35819))


def test_cmvn_has_the_unbiased_deviation() -> None:
    found = OnlineFrontEnd().features(wav(16_000))
    golden = (0.0, math.sqrt(100 / 101), 1.65690, 1.65690, 2.55952, 2.55952)
    assert_golden(found, (*golden, -3.69151, -0.78144, 1.52274, 1.23758))


def test_delta() -> None:
    found = OnlineFrontEnd(delta_order=1).features(wav(16_000))
    assert found.shape == (101, 160)
    wanted = torch.tensor([-2.32287, -1.35017, 0.91106, 0.23944])
    torch.testing.assert_close(found[-1, -4:], wanted, rtol=0, atol=5e-5)


def test_level_does_not_count() -> None:
    quiet, loud = (OnlineFrontEnd().features(gain * wav(4000)) for gain in (0.01, 1.0))
    torch.testing.assert_close(quiet, loud, rtol=0, atol=1e-3)  # rounding, in dB of quiet bands


def test_silence_is_finite() -> None:
    for front_end in (OnlineFrontEnd(), AlbertFrontEnd()):
        found = front_end.features(torch.zeros(16_000))
        torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=0)


def test_states(encoder: MockingjayUpstream) -> None:
    share = encoder.spec.family == "audio_albert"
    assert encoder.spec.num_parameters == PARAMETERS[share]
    with torch.no_grad():
        states = encoder(Waveforms.of([wav(16_000)])).layers
        head = SpecHead(80)
        fill(head)
        predicted = head(states[-1])[0]
    assert len(states) == len(STATES[share]) == 4
    for state, golden in zip(states, STATES[share], strict=True):
        assert state.shape == (1, 101, 768)
        assert_golden(state[0], golden)
    assert_golden(predicted, HEAD[share])
    worst = max(
        float((summary(state[0]) - torch.tensor(golden)).abs().max())
        for state, golden in zip(states, STATES[share], strict=True)
    )
    print(f"parity: {encoder.spec.family} states, golden values {worst:.1e}")


def test_attention_and_divergence(encoder: MockingjayUpstream) -> None:
    share = encoder.spec.family == "audio_albert"
    divergence = Divergence(encoder.spec.heads, base="e")
    maps: list[AttentionMap] = []
    with torch.no_grad(), divergence.batch(["noise"]) as visit:
        encoder.visit_attention(Waveforms.of([wav(16_000)]), visit)
        encoder.visit_attention(Waveforms.of([wav(16_000)]), maps.append)
    wanted = torch.tensor([0.003275, 0.010943, 0.015988, 0.013126])
    torch.testing.assert_close(maps[0].weights[0, 0, 0, :4], wanted, rtol=0, atol=1e-6)
    found, pairs = divergence.result(), ([0, 0, 1], [1, 2, 2])
    mean, first = DIVERGENCES[share]
    np.testing.assert_allclose(found.mean[pairs], mean, atol=2e-6)
    np.testing.assert_allclose(found.same_head[0][pairs], first, atol=2e-6)
    off = np.abs([found.mean[pairs] - mean, found.same_head[0][pairs] - first]).max()
    print(f"parity: {encoder.spec.family} divergences, golden values {off:.1e}")


def test_positions() -> None:
    table = sinusoids(5, 6)
    for position in range(5):
        for column in range(6):
            angle = position / 10_000 ** (2 * (column // 2) / 6)
            wanted = math.cos(angle) if column % 2 else math.sin(angle)
            assert table[position, column].item() == pytest.approx(wanted, abs=1e-7)


@pytest.mark.parametrize("num_frames", [1, 63, 64, 65, 1499])
def test_positions_are_kept_for_later_passes(num_frames: int) -> None:
    """Bit by bit those of a table of this length, in a pass with gradients after one without."""
    sizes = Dimensions(input_dim=4, num_layers=1, share=False, dim=48, heads=2, inner=8)
    inputs = draw_mockingjay(sizes, 0).input_representations
    features = torch.randn(2, num_frames, 4)
    with torch.inference_mode():
        inputs(features)
    projected = inputs.spec_transform(features)
    wanted = inputs.LayerNorm(projected + sinusoids(num_frames, 48))
    torch.testing.assert_close(inputs(features), wanted, rtol=0, atol=0)
    inputs(features).sum().backward()
    assert set(inputs.state_dict()) == {
        f"{part}.{kind}" for part in ("spec_transform", "LayerNorm") for kind in ("weight", "bias")
    }
    assert inputs.to("meta")(features.to("meta")).shape == wanted.shape


@pytest.mark.parametrize(
    ("size", "golden"),
    [
        (
            16_000,
            (
                *(0.0, 1.0, 1.227315, 2.695538, 3.655720, 3.973308),
                *(-1.930935, -1.200482, 0.117028, 1.424717),
            ),
        ),
        (
            12_345,  # the last two frames are dropped, so that mean and deviation are not 0 and 1
            (
                *(-0.002209, 0.999141, 1.388261, 2.993075, 3.826596, 4.632525),
                *(-0.245039, 0.381942, 0.068879, -1.023264),
            ),
        ),
    ],
)
def test_librosa_features(size: int, golden: Golden) -> None:
    found = AlbertFrontEnd().features(wav(size))
    assert found.shape == ((1 + size // 200) // 3, 480)
    assert_golden(found, golden, atol=1e-4)  # CMVN scales rounding up in bands that hardly vary


def test_librosa_live() -> None:
    librosa = pytest.importorskip("librosa")
    samples = wav(16_000).numpy()
    options = {"n_fft": 2048, "hop_length": 200, "win_length": 800, "pad_mode": "reflect"}
    mel = librosa.feature.melspectrogram(y=samples, sr=16_000, n_mels=80, **options)
    static = np.log(mel + 1e-6)
    wanted = np.concatenate([static, librosa.feature.delta(static)])
    wanted = ((wanted - wanted.mean(1)[:, None]) / (wanted.std(1) + 1e-16)[:, None]).T
    found = AlbertFrontEnd(stack=1).features(wav(16_000))
    off = (found - torch.from_numpy(wanted)).abs().max()
    print(f"parity: features of the papers, librosa {librosa.__version__} {off:.1e}")
    assert off < 1e-4


def test_slopes_are_savitzky_and_golays() -> None:
    from scipy.signal import savgol_filter

    static = torch.from_numpy(noise(80 * 30, 3)).view(80, 30).float()
    wanted = savgol_filter(static.numpy(), 9, polyorder=1, deriv=1, axis=-1, mode="interp")
    torch.testing.assert_close(_slopes(static, 9), torch.from_numpy(wanted), rtol=0, atol=1e-6)


@pytest.mark.parametrize("front_end", [OnlineFrontEnd(), AlbertFrontEnd(), AlbertFrontEnd(1)])
def test_shortest_utterance(front_end: OnlineFrontEnd | AlbertFrontEnd) -> None:
    sizes = torch.arange(2500)
    frames = front_end.num_frames(sizes)
    least = int(sizes[frames > 0][0])
    assert least == (201 if isinstance(front_end, OnlineFrontEnd) else 1600)
    for size in (least, least + 1, 2400, 2499):
        found = front_end.features(wav(size))
        assert found.shape == (int(frames[size]), front_end.dim)
        assert bool(found.isfinite().all())
