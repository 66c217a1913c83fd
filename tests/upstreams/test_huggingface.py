"""Parity with transformers, whole tensors, for every architecture; and what is refused."""

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoFeatureExtractor

import auscult
from auscult.contracts import AttentionMap, Waveforms
from auscult.errors import UserError
from auscult.upstreams.front_end import FilterbankFrontEnd, WaveformFrontEnd

SAMPLES = 5123


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return 0.1 * torch.randn(SAMPLES, generator=torch.Generator().manual_seed(3)) + 0.02


def transformers_says(tiny: Any, samples: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Hidden states (frame, dim) and attentions (head, frame, frame) of transformers itself."""
    extractor = AutoFeatureExtractor.from_pretrained(tiny.folder)
    inputs = extractor(
        samples.numpy(), sampling_rate=16_000, return_tensors="pt", return_attention_mask=True
    )
    tiny.model.set_attn_implementation("eager")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")  # WavLM
        output = tiny.model(**inputs, output_hidden_states=True, output_attentions=True)
    frames = output.last_hidden_state.shape[1]
    if tiny.architecture.model_type == "wav2vec2-bert":
        frames = int(inputs["attention_mask"].sum())  # an odd filterbank frame is masked
    # transformers 5 leaves the final layer norm out of the last hidden state
    states = [*output.hidden_states[:-1], output.last_hidden_state]
    return (
        [state[0, :frames] for state in states],
        [weights[0, :, :frames, :frames] for weights in output.attentions],
    )


def test_hidden_states_equal_transformers(tiny: Any, samples: Tensor) -> None:
    wanted, _ = transformers_says(tiny, samples)
    with torch.no_grad():
        found = auscult.load(f"hf:{tiny.folder}")(Waveforms.of([samples]))
    assert len(found.layers) == len(wanted) == 4
    for one, other in zip(found.layers, wanted, strict=True):
        assert_close(one[0], other, atol=1e-5, rtol=1e-5)  # eager there, fused here: float32


def test_last_state_is_the_encoders_output(tiny: Any, samples: Tensor) -> None:
    """The convention says "final_norm" exactly where the last block's output is changed."""
    upstream = auscult.load(f"hf:{tiny.folder}")
    model: Any = upstream.get_submodule("model")
    blocks: list[Tensor] = []
    handle = model.encoder.layers[-1].register_forward_hook(
        lambda module, args, output: blocks.append(output[0] if type(output) is tuple else output)
    )
    with torch.no_grad():
        last = upstream(Waveforms.of([samples])).layers[-1]
    handle.remove()
    assert ("final_norm" in upstream.spec.convention) == (not torch.equal(last, blocks[0]))
    assert upstream.spec.normalize == tiny.architecture.normalize


def test_attention_equals_transformers(tiny: Any, samples: Tensor) -> None:
    _, wanted = transformers_says(tiny, samples)
    maps: list[AttentionMap] = []
    with torch.no_grad():
        auscult.load(f"hf:{tiny.folder}").visit_attention(Waveforms.of([samples]), maps.append)
    assert len(maps) == len(wanted) == 3
    for found, weights in zip(maps, wanted, strict=True):
        ours = found.weights[0]
        if tiny.architecture.model_type == "wavlm":  # transformers repeats the mean over heads
            assert_close(ours.mean(0).expand_as(weights), weights, atol=1e-6, rtol=1e-5)
        else:
            assert_close(ours, weights, atol=1e-6, rtol=1e-5)


def test_maps_are_those_that_mix_the_values(tiny: Any, samples: Tensor) -> None:
    """Independently of what transformers reports: map times values is the attention's output."""
    upstream = auscult.load(f"hf:{tiny.folder}")
    model: Any = upstream.get_submodule("model")
    block = model.encoder.layers[1]
    attention = block.attention if hasattr(block, "attention") else block.self_attn
    value = attention.v_proj if hasattr(attention, "v_proj") else attention.linear_v
    out = attention.out_proj if hasattr(attention, "out_proj") else attention.linear_out
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"], output[0]))

    maps: list[AttentionMap] = []
    handle = attention.register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        upstream.visit_attention(Waveforms.of([samples]), maps.append)
        handle.remove()
        heads = value(seen[0][0]).unflatten(-1, (4, 8)).transpose(1, 2)  # (batch, head, frame, dim)
        mixed = out((maps[1].weights @ heads).transpose(1, 2).flatten(2))
    assert_close(mixed, seen[0][1], atol=1e-5, rtol=1e-5)
    assert float((maps[1].weights[0, 0] - maps[1].weights[0, 1]).abs().max()) > 1e-3


def test_earlier_maps_are_not_kept(tiny: Any, samples: Tensor) -> None:
    import weakref

    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def visit(found: AttentionMap) -> None:
        nonlocal most
        alive.append(weakref.ref(found.weights.untyped_storage()))  # type: ignore[arg-type]
        most = max(most, sum(reference() is not None for reference in alive))

    with torch.no_grad():
        auscult.load(f"hf:{tiny.folder}").visit_attention(Waveforms.of([samples]), visit)
    assert len(alive) == 3 and most == 1


def test_waveform_is_normalised_as_in_transformers(samples: Tensor) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    wanted = Wav2Vec2FeatureExtractor(do_normalize=True)(samples.numpy(), sampling_rate=16_000)
    found = WaveformFrontEnd((10,), (5,), normalize=True).prepare(samples)
    assert_close(found, torch.as_tensor(wanted["input_values"][0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [560, 719, 720, 879, 880, 1040, 5123])
def test_stacked_filterbanks_are_counted(length: int, samples: Tensor) -> None:
    front = FilterbankFrontEnd(normalize=True)
    frames = int(front.num_frames(torch.tensor([length]))[0])
    assert front.prepare(samples[:length]).shape == (frames, 160)


def test_padding_default_depends_on_the_device(samples: Tensor) -> None:
    upstream: Any = auscult.load("random(hubert_tiny)")
    batches: list[int] = []
    upstream.model.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    audio = Waveforms.of([samples, samples[:4000], samples])
    with torch.no_grad():
        upstream(audio)
        upstream.padding = "mask"
        upstream(audio)
    assert batches == [2, 1, 3]  # on the CPU by equal length


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def test_a_pretraining_head_is_left_over_and_listed(
    hubert_folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG, logger="auscult"):
        upstream = auscult.load(f"hf:{hubert_folder}")
    assert "lm_head.weight" in caplog.text
    captured = capfd.readouterr()
    assert captured.out == "" and "LOAD REPORT" not in captured.err  # nor transformers' bar
    stored = load_file(hubert_folder / "model.safetensors")
    for name, weight in upstream.get_submodule("model").state_dict().items():
        assert torch.equal(weight, stored[f"hubert.{name}"])


def test_missing_weights_are_refused(hubert_folder: Path) -> None:
    rewrite(hubert_folder, lambda found: {k: v for k, v in found.items() if "layers.1." not in k})
    with pytest.raises(UserError, match=r"lacks 17 of the encoder's tensors \(encoder.layers.1"):
        auscult.load(f"hf:{hubert_folder}")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_hidden_layers": 1}, "they have 3 blocks, and num_hidden_layers is 1"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected from 1 to 256"),
        ({"hidden_size": "x"}, "Field 'hidden_size' expected int, got str"),
        ({"conv_dim": [8]}, "Configuration for convolutional layers is incorrect"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected from 1 to 1024"),
        ({"num_attention_heads": 5}, "5 attention heads do not divide a width of 32"),
        ({"hidden_act": "step"}, "hidden_act is 'step'; expected gelu or "),
    ],
)
def test_configurations_that_do_not_fit(
    hubert_folder: Path, change: dict[str, Any], sentence: str
) -> None:
    path = hubert_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=sentence):
        auscult.load(f"hf:{hubert_folder}")


def test_a_missing_mask_vector_is_drawn_always_the_same(hubert_folder: Path) -> None:
    rewrite(hubert_folder, lambda found: {k: v for k, v in found.items() if "masked" not in k})
    assert len({auscult.load(f"hf:{hubert_folder}").spec.sha256 for _ in range(2)}) == 1


def test_other_shapes_are_refused(hubert_folder: Path) -> None:
    name = "hubert.encoder.layers.0.feed_forward.output_dense.weight"
    rewrite(hubert_folder, lambda found: found | {name: torch.zeros(32, 40)})
    with pytest.raises(UserError, match="other shapes for 1 of the encoder's tensors"):
        auscult.load(f"hf:{hubert_folder}")


def test_files_run_no_code(hubert_folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "sprung",)

    (hubert_folder / "model.safetensors").unlink()
    torch.save({"weight": Trap()}, hubert_folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="code from files is not run"):
        auscult.load(f"hf:{hubert_folder}")
    config = json.loads((hubert_folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (hubert_folder / "config.json").write_text(json.dumps(config))
    (hubert_folder / "mine.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')")
    with pytest.raises(UserError, match="is a 'mine' model; hf reads"):
        auscult.load(f"hf:{hubert_folder}")
    assert not (tmp_path / "sprung").exists()


def test_plain_tensors_in_a_bin_file_are_read(hubert_folder: Path) -> None:
    wanted = auscult.load(f"hf:{hubert_folder}").spec.sha256
    weights = load_file(hubert_folder / "model.safetensors")
    (hubert_folder / "model.safetensors").unlink()
    torch.save(weights, hubert_folder / "pytorch_model.bin")
    assert auscult.load(f"hf:{hubert_folder}").spec.sha256 == wanted


def test_positional_convolutions_of_torch_1(hubert_folder: Path) -> None:
    """What was saved before torch 2 names the parts of a normed weight otherwise."""
    wanted = auscult.load(f"hf:{hubert_folder}").spec.sha256
    older = {".parametrizations.weight.original0": ".weight_g"}
    older |= {".parametrizations.weight.original1": ".weight_v"}
    for new, old in older.items():
        rewrite(
            hubert_folder,
            lambda found, a=new, b=old: {k.replace(a, b): v for k, v in found.items()},
        )
    assert any(name.endswith("weight_g") for name in load_file(hubert_folder / "model.safetensors"))
    assert auscult.load(f"hf:{hubert_folder}").spec.sha256 == wanted


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"not weights", "cannot be read as safetensors"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("config.json", b"{", "cannot be read as JSON"),
        ("config.json", None, "has no config.json"),
        ("config.json", b'{"model_type": "bert"}', "is a 'bert' model; hf reads data2vec-audio"),
        ("preprocessor_config.json", b'{"sampling_rate": 8000}', "reads audio at 8000 Hz"),
    ],
)
def test_broken_folders(
    hubert_folder: Path, file: str, content: bytes | None, message: str
) -> None:
    (hubert_folder / file).unlink()
    if content is not None:
        (hubert_folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message):
        auscult.load(f"hf:{hubert_folder}")


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_normalisation_without_a_preprocessor(
    hubert_folder: Path, norm: str, caplog: pytest.LogCaptureFixture
) -> None:
    config = json.loads((hubert_folder / "config.json").read_text()) | {"feat_extract_norm": norm}
    (hubert_folder / "config.json").write_text(json.dumps(config))
    (hubert_folder / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.INFO, logger="auscult"):
        upstream = auscult.load(f"random(hf:{hubert_folder})")
    assert upstream.spec.normalize == (norm == "layer")
    assert "no preprocessor_config.json" in caplog.text


def test_normalisation_is_part_of_the_fingerprint(hubert_folder: Path) -> None:
    before = auscult.load(f"hf:{hubert_folder}").spec
    settings = json.loads((hubert_folder / "preprocessor_config.json").read_text())
    settings["do_normalize"] = True
    (hubert_folder / "preprocessor_config.json").write_text(json.dumps(settings))
    after = auscult.load(f"hf:{hubert_folder}").spec
    assert (before.normalize, after.normalize) == (False, True)
    assert before.sha256 != after.sha256


def test_random_twin_keeps_the_shape(hubert_folder: Path) -> None:
    trained, twin = (
        auscult.load(s) for s in (f"hf:{hubert_folder}", f"random(hf:{hubert_folder})")
    )
    assert twin.spec.name == f"random(hf:{hubert_folder})"
    assert twin.spec.num_parameters == trained.spec.num_parameters
    assert twin.spec.sha256 != trained.spec.sha256
    shutil.rmtree(hubert_folder)  # what is random needs no weights, but it needs the folder
    with pytest.raises(UserError, match="There is no folder"):
        auscult.load(f"random(hf:{hubert_folder})")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("hf", "needs a folder or a hub id"),
        ("hf:", "needs a folder or a hub id"),
        ("hf:/no/such/folder", "There is no folder /no/such/folder, and it is not a hub id"),
        ("hf:someone/no-such-model", "There is no folder someone/no-such-model, and as a hub id"),
        ("hf:/no/such@subnet", "hf has no subnets; drop @subnet"),
    ],
)
def test_addresses_that_lead_nowhere(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=message):
        auscult.load(spec)


def test_too_short_audio_is_a_sentence() -> None:
    upstream = auscult.load("random(hubert_tiny)")
    audio = Waveforms.of([torch.zeros(500), torch.zeros(399)])
    with pytest.raises(UserError, match=r"Utterance 1 .* is 399 samples; .* needs at least 400\."):
        upstream(audio)
    with pytest.raises(UserError, match="at 16000 Hz, got 8000 Hz"):
        upstream(Waveforms(torch.zeros(1, 500), torch.tensor([500]), sample_rate=8000))
