"""Mockingjay and Audio ALBERT: s3prl's own numbers from its own files, and files refused."""

import argparse
import copy
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auscult import bridge
from auscult.contracts import AttentionMap, Waveforms
from auscult.errors import UserError
from auscult.seed import seeded
from auscult.upstreams import load_upstream
from auscult.upstreams.mockingjay import (
    AlbertFrontEnd,
    MockingjayUpstream,
    OnlineFrontEnd,
    SpecHead,
)

FAMILIES = ("mockingjay", "audio_albert")
SIZES: dict[str, Any] = {
    "input_dim": -1,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 32,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": "1e-12",
    "pre_layer_norm": False,
}
KALDI: dict[str, Any] = {
    "kaldi": {
        "feat_type": "fbank",
        "fbank": {
            "num_mel_bins": 80,
            "frame_length": 25.0,
            "frame_shift": 10.0,
            "use_log_fbank": True,
        },
    },
    "delta": {"order": 2, "win_length": 5},
    "cmvn": {"use_cmvn": True},
}


def online(feat_type: str = "mel", delta: int = 0) -> dict[str, Any]:
    wanted = {"feat_type": feat_type, "channel": 0, "log": True, "delta": delta, "cmvn": True}
    return {
        "target_level": -25,
        "win_ms": 25,
        "hop_ms": 10,
        "n_freq": 201,
        "n_mels": 80,
        "n_mfcc": 13,
        "input": wanted,
        "target": wanted | {"channel": 1},
    }


def noise(size: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def perturb(module: nn.Module, seed: int = 5) -> nn.Module:
    """Give every tensor, biases and norms too, values that are nowhere zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def s3prl_model(input_dim: int, share: bool, attention: bool = False) -> nn.Module:
    bridge.repair()
    from s3prl.upstream.mockingjay.model import TransformerConfig, TransformerModel

    config = TransformerConfig(SIZES | {"share_layer": share})
    with seeded(0):
        return perturb(TransformerModel(config, input_dim, output_attentions=attention))


def s3prl_states(
    input_dim: int, *, share: bool, audio: dict[str, Any], sequence_length: int, legacy: bool
) -> dict[str, Any]:
    """Return what s3prl's runner saves, in either of its layouts."""
    config = {
        "transformer": SIZES | {"share_layer": share},
        "task": {"sequence_length": sequence_length, "loss": "L1"},
        "audio": audio,
    }
    runner = {"runner": {"total_steps": 10}}
    return {
        "Transformer": s3prl_model(input_dim, share).state_dict(),
        "SpecHead": SpecHead(80, dim=24).state_dict(),
        **({"Config": config, "Runner": runner} if legacy else {}),
        **({} if legacy else {"Upstream_Config": config, "Config": runner}),
        "Optimizer": {"state": {}, "param_groups": []},
        "Step": 10,
        "Args": argparse.Namespace(upstream="mockingjay"),
    }


def albert_new_states(share: bool, stack: int = 3) -> dict[str, Any]:
    """Return what AlbertNew's solver saves: a shared layer stands there without a number."""
    weights = s3prl_model(160 * stack, share).state_dict()
    if share:
        weights = {
            name.replace("layer.0.", "layer."): tensor
            for name, tensor in weights.items()
            if ".layer.1." not in name and ".layer.2." not in name
        }
    weights = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): x
        for name, x in weights.items()
    }
    sizes = {key: value for key, value in SIZES.items() if key != "pre_layer_norm"}
    settings = {
        "Config": {"mockingjay": sizes | {"downsample_rate": stack}, "optimizer": {}},
        "Paras": argparse.Namespace(seed=1337),
    }
    return {
        "Mockingjay": weights,
        "SpecHead": SpecHead(1025 * stack, dim=24).state_dict(),
        "Optimizer": {"state": {}},
        "Global_step": 10,
        "Settings": settings,
    }


Save = Callable[[dict[str, Any]], Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(states: dict[str, Any]) -> Path:
        torch.save(states, tmp_path / "states.ckpt")
        return tmp_path / "states.ckpt"

    return write


def difference(found: tuple[Tensor, ...], wanted: list[Tensor]) -> float:
    assert len(found) == len(wanted) == 4
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-5)  # float32, through three blocks
    return max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))


# --- parity ----------------------------------------------------------------------------------

CASES = {
    "mockingjay, legacy": (False, online(), 80, 1500, True),
    "audio_albert, new": (True, online(), 80, 1500, False),
    "mockingjay, deltas, chunks": (False, online(delta=1), 160, 30, False),
    "audio_albert, linear, chunks": (True, online("linear"), 201, 25, True),
    "mockingjay, kaldi": (False, KALDI, 240, 0, False),
}


@pytest.mark.parametrize("name", list(CASES))
def test_s3prls_numbers_from_s3prls_files(name: str, save: Save) -> None:
    share, audio, dim, length, legacy = CASES[name]
    path = save(s3prl_states(dim, share=share, audio=audio, sequence_length=length, legacy=legacy))
    family = "audio_albert" if share else "mockingjay"
    encoder = load_upstream(f"{family}:{path}")
    theirs = bridge.build_s3prl_upstream(f"{family}_local", str(path))
    worst = 0.0
    for seed, size in enumerate((16_000, 12_345)):
        row = noise(size, seed)
        with torch.no_grad():
            wanted = theirs([row])["hidden_states"]
            found = encoder(Waveforms.of([row]))
        assert found.lengths.tolist() == [wanted[0].shape[1]]
        worst = max(worst, difference(found.layers, list(wanted)))
    print(f"parity: {name}, s3prl {worst:.1e}")
    spec = encoder.spec
    assert (spec.family, spec.num_layers, spec.dim, spec.heads) == (family, 3, 24, (3, 3, 3))
    assert spec.head_parameters == sum(p.numel() for p in SpecHead(80, dim=24).parameters())
    assert spec.convention == "block_input, embedding_norm"


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("stack", [1, 3])
def test_albert_new(share: bool, stack: int, save: Save) -> None:
    path = save(albert_new_states(share, stack))
    encoder = load_upstream(f"{'audio_albert' if share else 'mockingjay'}:{path}")
    assert isinstance(encoder, MockingjayUpstream)
    assert encoder.front_end == AlbertFrontEnd(stack) and encoder.sequence_length == 0
    row = noise(16_000)
    features = AlbertFrontEnd(stack).features(row)[None]
    with torch.no_grad():
        wanted = s3prl_states_of(features, share)[1]
        found = encoder(Waveforms.of([row]))
    difference(found.layers, wanted)
    head = SpecHead(1025 * stack, dim=24)
    assert encoder.spec.head_parameters == sum(p.numel() for p in head.parameters())


def s3prl_states_of(features: Tensor, share: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Return s3prl's attention maps and states of features (batch, frame, dim)."""
    model = s3prl_model(features.shape[-1], share, attention=True)
    from s3prl.upstream.mockingjay.builder import position_encoding

    table = position_encoding(features.shape[1], 24).expand(len(features), -1, -1)
    maps, states = model(features, table, torch.ones(features.shape[:2]))
    return maps, states


@pytest.mark.parametrize("share", [False, True])
def test_attention_is_s3prls(share: bool, save: Save) -> None:
    path = save(s3prl_states(80, share=share, audio=online(), sequence_length=0, legacy=True))
    encoder = load_upstream(f"{'audio_albert' if share else 'mockingjay'}:{path}")
    row = noise(9000)
    maps: list[AttentionMap] = []
    with torch.no_grad():
        wanted = s3prl_states_of(OnlineFrontEnd().features(row)[None], share)[0]
        encoder.visit_attention(Waveforms.of([row]), maps.append)
    assert [found.block for found in maps] == [1, 2, 3]
    worst = 0.0
    for found, theirs in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found.weights, theirs, rtol=0, atol=1e-6)
        worst = max(worst, float((found.weights - theirs).abs().max()))
    print(f"parity: attention, {encoder.spec.family}, s3prl {worst:.1e}")


# --- files -----------------------------------------------------------------------------------


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def test_nothing_in_a_file_runs(tmp_path: Path, save: Save) -> None:
    states = s3prl_states(80, share=False, audio=online(), sequence_length=0, legacy=True)
    marker = tmp_path / "it_ran"
    path = save(states | {"Optimizer": Hostile(marker)})
    load_upstream(f"mockingjay:{path}")
    assert not marker.exists()
    torch.load(path, weights_only=False)  # as s3prl does: the trap is one
    assert marker.exists()


def test_a_pickled_optimiser_of_a_lost_module(save: Save, monkeypatch: Any) -> None:
    module = ModuleType("optimizers")
    optimiser = type("BertAdam", (), {"__module__": "optimizers"})
    setattr(module, "BertAdam", optimiser)  # noqa: B010
    monkeypatch.setitem(sys.modules, "optimizers", module)
    states = s3prl_states(80, share=True, audio=online(), sequence_length=0, legacy=False)
    found: Any = optimiser()
    found.schedule = "linear"
    path = save(states | {"Scheduler": found})
    monkeypatch.delitem(sys.modules, "optimizers")
    assert load_upstream(f"audio_albert:{path}").spec.num_layers == 3


def change(states: dict[str, Any], where: str, value: Any) -> None:
    *outer, last = where.split("/")
    for key in outer:
        states = states[key]
    if value is None:
        del states[last]
    else:
        states[last] = value


QUERY = "encoder.layer.1.attention.self.query.weight"
BROKEN = {
    "no transformer": ("Transformer", None, "is no checkpoint of Mockingjay or Audio ALBERT"),
    "tensors are none": ("Transformer", [1], "expected a table of tensors, got a list"),
    "no audio": ("Config/audio", None, r"does not say how its features are computed"),
    "no task": ("Config/task", None, "no section Config.task"),
    "mfcc": ("Config/audio/input/feat_type", "mfcc", r"input.feat_type is 'mfcc'; expected 'mel'"),
    "other hop": ("Config/audio/hop_ms", 20, r"audio.hop_ms is 20; expected 10"),
    "other rate": ("Config/audio/sample_rate", 8000, r"audio.sample_rate is 8000"),
    "no level": ("Config/audio/target_level", None, "target_level is nothing; expected a number"),
    "pre-norm": ("Config/transformer/pre_layer_norm", True, "pre_layer_norm is True"),
    "swish": ("Config/transformer/hidden_act", "swish", "hidden_act is 'swish'; expected 'gelu'"),
    "no flag": ("Config/transformer/share_layer", None, "share_layer is nothing; expected true"),
    "word for a flag": ("Config/transformer/share_layer", "no", "share_layer is 'no'"),
    "depth": ("Config/transformer/num_hidden_layers", 4, "has 3 layers, and num_hidden_layers is"),
    "narrow": ("Config/transformer/begins_nearby", True, "is for heads of 24 columns or more"),
    "no spread": ("Config/transformer/initializer_range", 0, "is 0; expected a positive number"),
    "half a layer": ("Config/transformer/num_hidden_layers", 2.5, "is 2.5; expected a whole"),
    "heads": ("Config/transformer/num_attention_heads", 5, "is no multiple of its num_attention"),
    "width": (
        "Config/transformer/hidden_size",
        48,
        r"\(24, 80\), expected float32 \(48, 80\) \(and 48 more\)",
    ),
    "filters": ("Config/audio/n_mels", 40, "reads features 80 wide, and those that its config"),
    "chunks": ("Config/task/sequence_length", -1, "sequence_length is -1; expected a whole"),
    "missing": (f"Transformer/{QUERY}", None, f"configuration: it lacks {QUERY}"),
    "unexpected": ("Transformer/extra", torch.ones(2), "it holds, unexpectedly, extra"),
    "head": ("SpecHead/more", torch.ones(2), "its SpecHead holds, unexpectedly, more"),
    "shared, but not": ("Config/transformer/share_layer", True, "layers differ"),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_broken_files(name: str, save: Save) -> None:
    where, value, sentence = BROKEN[name]
    states = s3prl_states(80, share=False, audio=online(), sequence_length=0, legacy=True)
    change(states, where, value)
    path = save(states)
    with pytest.raises(UserError, match=sentence) as caught:
        load_upstream(f"mockingjay:{path}")
    assert str(path) in str(caught.value) and str(caught.value).count("\n") == 0


@pytest.mark.parametrize(
    ("where", "value", "sentence"),
    [
        ("kaldi/feat_type", "mfcc", "kaldi.feat_type is 'mfcc'; expected 'fbank'"),
        ("kaldi/fbank/frame_shift", 20.0, "frame_shift is 20.0; expected 10.0"),
        ("kaldi/fbank/dither", 1.0, "fbank.dither is an option that Auscult does not compute"),
        ("delta/win_length", 9, "delta.win_length is 9; expected 5"),
        ("cmvn", None, "no section Upstream_Config.audio.cmvn"),
    ],
)
def test_features_of_kaldi_that_are_not_computed(
    where: str, value: Any, sentence: str, save: Save
) -> None:
    audio = copy.deepcopy(KALDI)
    change(audio, where, value)
    path = save(s3prl_states(240, share=False, audio=audio, sequence_length=0, legacy=False))
    with pytest.raises(UserError, match=sentence):
        load_upstream(f"mockingjay:{path}")


def test_the_other_family_is_named(save: Save) -> None:
    for share in (True, False):
        family, right = FAMILIES[not share], FAMILIES[share]
        path = save(s3prl_states(80, share=share, audio=online(), sequence_length=0, legacy=True))
        with pytest.raises(UserError, match=f"is no {family}: .*load it as {right}:{path}"):
            load_upstream(f"{family}:{path}")


def test_equal_layers_of_albert_new_are_shared(save: Save) -> None:
    states = albert_new_states(share=False)
    for name in list(states["Mockingjay"]):
        for number in "12":
            if f"layer.{number}." in name:
                first = name.replace(f"layer.{number}.", "layer.0.")
                states["Mockingjay"][name] = states["Mockingjay"][first].clone()
    encoder = load_upstream(f"audio_albert:{save(states)}")
    assert encoder.spec.num_layers == 3
    assert isinstance(encoder, MockingjayUpstream) and len(encoder.network.encoder.layer) == 1


def test_addresses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs a checkpoint file: mockingjay:FILE"):
        load_upstream("mockingjay")
    with pytest.raises(UserError, match="does not exist"):
        load_upstream(f"mockingjay:{tmp_path / 'none.ckpt'}")
    (tmp_path / "text.ckpt").write_text("hello")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_upstream(f"audio_albert:{tmp_path / 'text.ckpt'}")
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(UserError, match="holds a list"):
        load_upstream(f"audio_albert:{tmp_path / 'list.ckpt'}")
    with pytest.raises(UserError, match="audio_albert has no subnets; drop @a_small"):
        load_upstream(f"audio_albert:{tmp_path / 'list.ckpt'}@a_small")


def test_random_keeps_the_shape_of_a_file(save: Save) -> None:
    path = save(s3prl_states(80, share=True, audio=online(), sequence_length=30, legacy=True))
    trained = load_upstream(f"audio_albert:{path}")
    twin = load_upstream(f"random(audio_albert:{path})", seed=4)
    again = load_upstream(f"random(audio_albert:{path}, seed=4)")
    assert isinstance(trained, MockingjayUpstream) and isinstance(twin, MockingjayUpstream)
    assert twin.network.dimensions == trained.network.dimensions
    assert twin.sequence_length == trained.sequence_length == 30
    assert twin.spec.sha256 == again.spec.sha256 != trained.spec.sha256
