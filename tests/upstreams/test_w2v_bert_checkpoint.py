"""w2v-BERT on disk: the round trip, the random twin, and files that are broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

import auscult
from auscult.contracts import AttentionMap
from auscult.errors import UserError
from auscult.testing import noise
from auscult.upstreams import outline_upstream
from auscult.upstreams.w2v_bert import (
    Dimensions,
    W2vBert,
    W2vBertUpstream,
    build_w2v_bert,
    load_w2v_bert,
    save_w2v_bert,
)

TINY = Dimensions(
    contrastive_blocks=2,
    masked_prediction_blocks=3,
    dim=16,
    heads=4,
    feed_forward=40,
    filters=23,
    channels=6,
    codebook=12,
    code_dim=10,
)


@pytest.fixture
def model() -> W2vBert:
    torch.manual_seed(6)
    found = build_w2v_bert(TINY)
    with torch.no_grad():
        for tensor in [*found.parameters(), *found.buffers()]:  # statistics among them
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand(tensor.shape))
    return found.eval()


@pytest.fixture
def folder(model: W2vBert, tmp_path: Path) -> Path:
    save_w2v_bert(model, tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_and_loaded(model: W2vBert, folder: Path) -> None:
    again = load_w2v_bert(folder)
    assert again.dimensions == TINY
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert all(parameter.requires_grad for parameter in again.parameters())
    upstream = auscult.load(f"w2v_bert:{folder}")
    wanted = W2vBertUpstream(model.encoder, TINY, name="", source="").eval()
    audio = noise(upstream, [5123, 6400])
    maps: list[AttentionMap] = []
    with torch.no_grad():
        states = upstream.visit_attention(audio, maps.append)
        for one, other in zip(upstream(audio).layers, wanted(audio).layers, strict=True):
            assert torch.equal(one, other)
    assert len(maps) == 5 and maps[0].weights.shape[:2] == (2, TINY.heads)
    assert states.lengths.tolist() == upstream.num_frames(audio.lengths).tolist()
    assert upstream.spec.sha256 == wanted.spec.sha256
    assert upstream.spec.source == str(folder)
    by_file = auscult.load(f"w2v_bert:{folder}/model.safetensors")
    assert by_file.spec.sha256 == upstream.spec.sha256


def test_a_home_folder_is_expanded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    for spec in ("w2v_bert:~/saved", "random(w2v_bert:~/saved)"):
        assert auscult.load(spec).spec.source == str(folder)


def test_half_precision_is_read_as_float32(model: W2vBert, folder: Path) -> None:
    path = folder / "model.safetensors"
    half = {
        name: x.bfloat16() if x.is_floating_point() else x for name, x in load_file(path).items()
    }
    save_file(half, path)
    again = load_w2v_bert(folder)
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}
    assert_close(again.heads.contrastive.weight, model.heads.contrastive.weight, atol=0.01, rtol=0)


def test_a_random_twin_keeps_the_shape_alone(folder: Path) -> None:
    specs = [
        auscult.load(f"w2v_bert:{folder}").spec,
        auscult.load(f"random(w2v_bert:{folder})").spec,
        auscult.load(f"random(w2v_bert:{folder})", seed=3).spec,
        auscult.load(f"random(w2v_bert:{folder}, seed=3)").spec,
    ]
    assert len({spec.sha256 for spec in specs}) == 3 and specs[2] == specs[3]
    assert len({(spec.modules, spec.num_parameters, spec.head_parameters) for spec in specs}) == 1
    outlined = outline_upstream(f"random(w2v_bert:{folder})")
    assert (
        outlined.device.type == "meta" and outlined.spec.num_parameters == specs[0].num_parameters
    )
    assert outline_upstream(f"w2v_bert:{folder}").spec == specs[0]


def change_config(folder: Path, **changes: Any) -> None:
    found = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in found.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))


def change_weights(folder: Path, drop: str = "", **changes: Tensor) -> None:
    found = load_file(folder / "model.safetensors")
    found.pop(drop, None)
    save_file(found | changes, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing; w2v_bert reads the dim"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "expected a JSON object, got a list"),
        (lambda f: (f / "config.json").write_text("{}"), "not of a w2v-BERT of 2021: .* got None"),
        (lambda f: change_config(f, model_type="wav2vec2-bert"), "'wav2vec2-bert'; .* read by hf"),
        (lambda f: change_config(f, chanels=3), "Unknown dimension 'chanels'. Did you mean chann"),
        (lambda f: change_config(f, heads=None), "config.json does not name the dimension heads"),
        (
            lambda f: change_config(f, heads=3),
            "config.json: w2v-BERT's dim 16 cannot be cut into 3",
        ),
        (
            lambda f: change_config(f, dim=32),
            r"fit its config.json: it holds .*, expected float32 .* more\)",
        ),
        (
            lambda f: change_config(f, contrastive_blocks=1),
            r"it holds, unexpectedly, encoder.* \(and 36 more\)",
        ),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 80),
            "model.safetensors cannot be read as s",
        ),
        (
            lambda f: change_weights(f, drop="encoder.projection.bias"),
            "it lacks encoder.projection.bias",
        ),
        (
            lambda f: change_weights(f, surplus=torch.zeros(2)),
            "it holds, unexpectedly, surplus",
        ),
    ],
)
def test_broken_files(folder: Path, damage: Callable[[Path], Any], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        auscult.load(f"w2v_bert:{folder}")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_something_else(folder: Path) -> None:
    torch.save({"epoch": 3}, folder / "last.pt")
    with pytest.raises(UserError, match="last.pt does not fit its config.json: it lacks"):
        auscult.load(f"w2v_bert:{folder}/last.pt")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("w2v_bert", "needs a safetensors file or its folder, .* write random"),
        ("random(w2v_bert)", "needs a safetensors file or its folder"),
        ("w2v_bert:nowhere/at-all", "There is no nowhere/at-all"),
        ("w2v_bert:models@a_small", "w2v_bert has no subnets; drop @a_small"),
        ("random(w2v_bert_tiny@a_small)", "w2v_bert_tiny has no subnets"),
    ],
)
def test_addresses_that_cannot_be_loaded(address: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        auscult.load(address)
