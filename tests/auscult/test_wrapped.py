"""Somebody's own module as an encoder: hooked, measured, held to the contract."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auscult.contracts import Waveforms
from auscult.errors import UserError
from auscult.testing import run_checks
from auscult.wrapped import wrap


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.inner(x, x, x, average_attn_weights=False)
        return found


class Block(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attention = Attention(dim)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return x + self.linear(self.attention(x)[0]), None


class Mine(nn.Module):
    """A convolution over samples and two blocks of attention without a mask."""

    def __init__(self, dim: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, dim, 400, stride=320)
        self.encoder = nn.ModuleDict({"layers": nn.ModuleList(Block(dim) for _ in range(2))})

    def forward(self, waves: Tensor) -> dict[str, Tensor]:
        x = self.conv(waves[:, None]).transpose(1, 2)
        for block in self.encoder["layers"]:  # type: ignore[union-attr]
            x, _ = block(x)
        return {"out": x}


def failures(upstream: Any) -> list[str]:
    return [f"{f.check}: {f.why}" for f in run_checks(upstream) if not f.passed]


def test_blocks_are_hooked_and_frames_measured() -> None:
    upstream = wrap(Mine(), blocks="encoder.layers", attention="attention")
    spec = upstream.spec
    assert (spec.num_layers, spec.dim, spec.heads) == (2, 8, (2, 2))
    assert (spec.geometry.stride, spec.geometry.receptive_field) == (320, 400)
    assert not upstream.exact and spec.name == "Mine"
    assert failures(upstream) == []


def test_convolutions_alone_are_exact_and_batched() -> None:
    module = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 6, 200, stride=80), Turn())
    upstream = wrap(module, name="conv")
    assert upstream.exact and len(upstream.groups(torch.tensor([900, 800]))) == 1
    assert (upstream.spec.num_layers, upstream.spec.geometry.stride) == (0, 80)
    assert failures(upstream) == []


class Turn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_another_rate_is_resampled_to() -> None:
    module = nn.Sequential(nn.Unflatten(1, (1, -1)), nn.Conv1d(1, 6, 200, stride=80), Turn())
    upstream = wrap(module, sample_rate=8000)
    assert upstream.spec.geometry.stride == 160
    audio = Waveforms.of([torch.randn(16_000) / 10])
    assert upstream(audio).layers[0].shape[1] == upstream.num_frames(torch.tensor([16_000]))[0]


def test_other_weights_are_another_fingerprint() -> None:
    module = Mine()
    before = wrap(module, blocks="encoder.layers").spec.sha256
    with torch.no_grad():
        module.conv.bias += 1.0  # type: ignore[operator]
    assert wrap(module, blocks="encoder.layers").spec.sha256 != before


class Plain(nn.Module):
    """Keeps all sorts of values beside its weights, and notes what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 6, 400, stride=320)
        self.scales = (1.0, [2.0, 3.0])
        self._gain = 1.0
        self.window = torch.ones(6)
        self.names: dict[str, Any] = {"a": None}
        self.register_buffer("shift", torch.zeros(6), persistent=False)
        self.seen, self.calls = torch.zeros(1), 0

    def forward(self, waves: Tensor) -> Tensor:
        self.seen, self.calls = waves.abs().mean(), self.calls + 1
        return self.conv(waves[:, None]).mT * self.window * self._gain + self.shift


def test_other_values_beside_the_weights_are_another_fingerprint() -> None:
    module = Plain()
    encoder = wrap(module)
    found = [encoder.fingerprint()]
    with torch.no_grad():
        module(torch.randn(1, 9000))
    assert encoder.fingerprint() == found[0], "what a pass leaves behind is no part of an encoder"
    for name, value in {
        "scales": (1.0, [2.0, 4.0]),
        "_gain": 2.0,
        "window": torch.full((6,), 2.0),
        "shift": torch.ones(6),
        "names": {"a": 1},
    }.items():
        setattr(module, name, value)
        found.append(encoder.fingerprint())
    assert len(set(found)) == len(found)
    assert wrap(Plain()).fingerprint() == wrap(Plain()).fingerprint() == found[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"blocks": "encoder.blocks"}, "has no module 'encoder.blocks'; its own are conv, encoder"),
        ({"blocks": "conv"}, "expected as many frames and dimensions in each"),
        ({"blocks": "encoder.layers", "attention": "linear"}, "0 of 2 attention modules"),
        ({"blocks": "encoder.layers", "stride": 160}, "frames are not regular"),
    ],
)
def test_what_is_wrong_is_said(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrap(Mine(), **options)


@pytest.mark.parametrize(
    ("module", "options", "sentence"),
    [
        (Mine, {}, "an instance; got the class Mine"),
        ("hf:folder", {}, "takes a torch.nn.Module"),
        (Mine(), {"sample_rate": 16e3}, "sample_rate=16000.0: expected a whole number"),
        (Mine(), {"sample_rate": None}, "expected the rate"),
        (Mine(), {"stride": "320"}, "stride='320': expected a whole number"),
        (Mine(), {"blocks": Mine().encoder}, "blocks= takes a dotted path"),
        (Mine(), {"blocks": ["encoder.layers.0", 1]}, "blocks= takes a dotted path .*; got 1"),
        (Mine(), {"blocks": "encoder.layers", "attention": 3}, "attention= takes a dotted path"),
        (Mine(), {"name": 3}, "name= takes a text; got 3"),
    ],
)
def test_arguments_of_other_types(module: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrap(module, **options)


def test_no_frames() -> None:
    with pytest.raises(UserError, match="expected states"):
        wrap(nn.Linear(32_000, 4))


class Odd(nn.Module):
    """One fault of many, in what a module makes of waveforms."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.conv, self.fault = nn.Conv1d(1, 8, 400, 320), fault

    def forward(self, waves: Tensor) -> Tensor:
        if self.fault == "one" and len(waves) > 1:
            raise RuntimeError("one row only")
        pad = {"fixed": 40_000 - waves.shape[1], "long": 40_000}.get(self.fault, 0)
        x = self.conv(nn.functional.pad(waves, (0, pad))[:, None]).transpose(1, 2)
        if self.fault == "neighbours":
            return x - x.mean((0, 1))
        return {"turned": x.mT, "time first": x.transpose(0, 1), "pooled": x.mean(1)}.get(
            self.fault, x
        )


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("turned", "8 frames for 2 s of audio and for 1 s; expected states .batch, frame, dim"),
        ("time first", r"waveforms \(1, 32000\) give states \(99, 1, 8\); expected .*batch first"),
        ("pooled", r"expected states \(batch, frame, dim\) as output, got \(1, 8\)"),
        ("fixed", "for 2 s of audio and for 1 s"),
        ("long", "for the shortest audio that it takes, 1 samples"),
    ],
)
def test_states_of_other_shapes_are_said(fault: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        wrap(Odd(fault))


@pytest.mark.parametrize("fault", ["neighbours", "one"])
def test_rows_that_change_each_other_are_encoded_one_by_one(fault: str) -> None:
    upstream = wrap(Odd(fault))
    assert not upstream.together and upstream.groups(torch.tensor([900, 900])) == [[0], [1]]
    assert failures(upstream) == []


class Stock(nn.Module):
    """Torch's own layers, which ask their attention for no weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(1, 8, 400, stride=320)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
        )

    def forward(self, waves: Tensor) -> Tensor:
        return self.encoder(self.conv(waves[:, None]).mT)


def test_attention_of_torchs_own_layers_gives_its_weights() -> None:
    module = Stock()
    upstream = wrap(module, blocks="encoder.layers", attention="self_attn")
    assert upstream.spec.heads == (2, 2)
    waves = torch.randn(1, 4000)
    maps: list[Tensor] = []
    audio = Waveforms(waves, torch.tensor([4000]))
    states = upstream.visit_attention(audio, lambda found: maps.append(found.weights))
    assert [tuple(x.shape) for x in maps] == [(1, 2, 12, 12)] * 2
    assert torch.allclose(torch.stack(maps).sum(-1), torch.ones(2, 1, 2, 12))
    x = states.layers[0]
    attend = module.encoder.layers[0].get_submodule("self_attn")
    _, wanted = attend(x, x, x, average_attn_weights=False)
    assert torch.allclose(maps[0], wanted, atol=1e-6)
    assert not attend._forward_pre_hooks


def test_settings_and_functions_in_attributes_count() -> None:
    def sha256(**values: object) -> str:
        module = Mine()
        for name, value in values.items():
            setattr(module, name, value)
        return wrap(module).spec.sha256

    around: dict[str, object] = {}
    around["self"] = around
    values = [SimpleNamespace(scale=1), SimpleNamespace(scale=2), torch.relu, torch.tanh, around]
    found = [sha256(), *(sha256(held=value) for value in values)]
    assert len(set(found)) == len(found)
    assert sha256(held=SimpleNamespace(scale=2)) == found[2]
