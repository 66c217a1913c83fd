"""The bridge to s3prl: what it mends, what it leaves alone, and our encoders behind its hub."""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from auscult import bridge
from auscult.contracts import HiddenStates, Waveforms
from auscult.errors import UserError

FRESH = """
import sys

class NoDistutils:  # Python 3.12 without setuptools
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "distutils":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoDistutils())
import auscult.bridge as bridge
assert not any(m.split(".")[0] == "s3prl" for m in sys.modules)
finders = len(sys.meta_path)
bridge.repair()
bridge.repair()
assert len(sys.meta_path) == finders + 1
assert not any(m.split(".")[0] == "s3prl" for m in sys.modules)
names = bridge.hub_names()
import s3prl.run_downstream, s3prl.downstream.runner, s3prl.upstream.mockingjay.builder as builder
assert builder.strtobool("True") == 1 and builder.strtobool("no") == 0
import huggingface_hub, torchaudio
assert not hasattr(torchaudio, "set_audio_backend")
assert not hasattr(huggingface_hub, "HfFolder")
assert "torchaudio.sox_effects" not in sys.modules and "distutils" not in sys.modules
assert vars(s3prl.run_downstream)["torchaudio"] is not torchaudio
assert {"fbank", "hubert_local", "tera"} <= set(names)
assert not {"Path", "FileLock", "auscult"} & set(names)
"""


@pytest.fixture
def hub(toy: Any) -> Any:
    """s3prl's hub with our entry, which loads the toy encoder."""
    asked = []

    def load(spec: str) -> Any:
        asked.append(spec)
        return toy

    bridge.register(load)
    from s3prl import hub

    yield argparse.Namespace(hub=hub, asked=asked, toy=toy)
    delattr(hub, bridge.ENTRY)


@pytest.mark.slow
def test_a_fresh_process_is_mended_and_others_see_nothing_of_it() -> None:
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert "ESPnet" not in done.stderr


def test_one_entry_is_added_and_takes_what_s3prl_hands_it(hub: Any) -> None:
    before = set(bridge.hub_names())
    assert "auscult" in hub.hub.options() and "auscult" not in before
    model = hub.hub.auscult(ckpt="any:spec@x", model_config=None, refresh=True, legacy=False)
    assert hub.asked == ["any:spec@x"]
    assert model.get_downsample_rates("hidden_states") == 320
    with pytest.raises(UserError, match="needs an upstream spec as its checkpoint"):
        hub.hub.auscult(refresh=True)


def test_s3prl_upstream_and_featurizer_take_our_encoder(hub: Any) -> None:
    from s3prl.nn import Featurizer, S3PRLUpstream

    model = S3PRLUpstream("auscult", path_or_url="toy").eval()
    assert model.num_layers == 3 and set(model.downsample_rates) == {320}
    rows = [torch.randn(n) for n in (1600, 1000)]
    padded = Waveforms.of(rows)
    hidden, lengths = model(padded.samples, padded.lengths)
    assert lengths[0].tolist() == [5, 4]  # ceil(samples / 320)
    expected = hub.toy(padded)
    assert expected.lengths.tolist() == [4, 2]
    for ours, theirs in zip(expected.layers, hidden, strict=True):
        torch.testing.assert_close(theirs[0], ours[0, [0, 1, 2, 3, 3]], rtol=0, atol=0)
        torch.testing.assert_close(theirs[1, :4], ours[1, [0, 1, 1, 1]], rtol=0, atol=0)
    mixed, _ = Featurizer(model)(hidden, lengths)
    torch.testing.assert_close(mixed, torch.stack(hidden).mean(0))


def test_s3prls_own_runner_trains_on_our_encoder(
    hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3prl.downstream.example.dataset as data
    from s3prl.downstream.runner import Runner

    for name, value in {"MIN_SEC": 0.5, "MAX_SEC": 1, "DATASET_SIZE": 4}.items():
        monkeypatch.setattr(data, f"EXAMPLE_{'WAV_' if 'SEC' in name else ''}{name}", value)
    monkeypatch.setattr(data.random, "randint", lambda low, high: int(low))
    args = argparse.Namespace(
        init_ckpt="",
        upstream="auscult",
        upstream_ckpt="toy",
        upstream_model_config=None,
        upstream_refresh=False,
        upstream_trainable=False,
        upstream_feature_selection="hidden_states",
        upstream_layer_selection=None,
        upstream_feature_normalize=False,
        device="cpu",
        downstream="example",
        expdir=str(tmp_path),
        push_to_hf_hub=False,
        seed=0,
    )
    runner = {"total_steps": 2, "gradient_clipping": 1, "gradient_accumulate_steps": 1}
    runner |= {"log_step": 1, "eval_step": 2, "save_step": 2, "max_keep": 1}
    sizes = {"train_batch_size": 2, "eval_batch_size": 2, "num_workers": 0}
    config = {
        "runner": runner | {"eval_dataloaders": ["dev"]},
        "optimizer": {"name": "Adam", "lr": 0.01},
        "downstream_expert": {"datarc": sizes, "modelrc": {"input_dim": 4, "hidden_dim": 4}},
    }
    with bridge.hushed(stderr=True):
        Runner(args, config).train()
        args.init_ckpt = str(tmp_path / "states-2.ckpt")  # holds an argparse.Namespace
        resumed = Runner(args, config)
    assert resumed.init_ckpt["Step"] == 2
    weights: Any = resumed.featurizer.model.weights
    assert len(weights) == 3 and all(weight != 0 for weight in weights.tolist())


def test_the_encoder_is_in_training_mode_only_when_it_is_trained(toy: Any) -> None:
    modes = []
    toy.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    model = bridge.HubUpstream(toy)
    model.train()  # as S3PRLUpstream leaves it
    with torch.no_grad():
        model([torch.randn(800)])
    model([torch.randn(800)])
    model.eval()([torch.randn(800)])
    assert modes == [False, True, False]


def test_gradients_reach_the_encoder(toy: Any) -> None:
    answer = bridge.HubUpstream(toy).train()([torch.randn(1600), torch.randn(900)])
    answer["last_hidden_state"].sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in toy.parameters())


@pytest.mark.parametrize(
    ("valid", "samples", "expected"),
    [
        ([3, 1], [960, 500], [[0, 1, 2], [0, 0, 0]]),  # one short: the last frame again
        ([4, 2], [960, 640], [[0, 1, 2], [0, 1, 1]]),  # one too many: cut
        ([2, 2], [321, 640], [[0, 1], [0, 1]]),
        ([1, 2], [1300, 640], [[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]),
    ],
)
def test_frames_are_matched_to_what_s3prl_counts(
    valid: list[int], samples: list[int], expected: list[list[int]]
) -> None:
    layer = torch.arange(5.0).expand(2, 5).unsqueeze(-1).clone()
    for row, frames in enumerate(valid):
        layer[row, frames:] = float("nan")  # padding must never be seen
    states = HiddenStates((layer,), torch.tensor(valid))
    (matched,) = bridge.match_frames(states, torch.tensor(samples), 320)
    assert matched.squeeze(-1).tolist() == expected


def test_a_row_without_a_frame_is_refused(toy: Any) -> None:
    with pytest.raises(UserError, match="Waveform 1 of the batch has 300 samples, too short"):
        bridge.HubUpstream(toy)([torch.randn(1600), torch.randn(300)])


def test_unknown_and_incomplete_s3prl_upstreams_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    file.write_bytes(b"no checkpoint")
    for name, checkpoint, message in (
        ("fbnk", "", "Unknown s3prl upstream 'fbnk'. Did you mean fbank"),
        ("fbank", "/x.ckpt", "takes no checkpoint, but '/x.ckpt' was given"),
        ("tera_local", "", "needs a checkpoint: s3prl:tera_local:CHECKPOINT"),
        ("tera_local", f"{file}.gone", "does not exist"),
        ("hubert_local", str(file), "'hubert_local': .*x.ckpt is not a checkpoint"),
    ):
        with pytest.raises(UserError, match=message):
            bridge.build_s3prl_upstream(name, checkpoint)


def test_s3prls_datasets_read_audio_with_soundfile(tmp_path: Path) -> None:
    bridge.repair()
    module = importlib.import_module("s3prl.downstream.sws2013.quesst14_dataset")
    time = np.arange(8000) / 8000
    stereo = np.stack([np.sin(2 * np.pi * 440 * time), np.zeros(8000)], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, 8000, subtype="FLOAT")
    effects = [["channels", "1"], ["rate", "16000"], ["gain", "-3.0"]]
    samples, rate = module.apply_effects_file(str(tmp_path / "a.wav"), effects)
    assert (rate, samples.shape) == (16_000, (1, 16_000))
    wanted = 0.5 * 10 ** (-3 / 20) * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    inner = slice(500, -500)  # away from the resampling filter's edges
    torch.testing.assert_close(
        samples[0, inner], torch.from_numpy(wanted).float()[inner], rtol=0, atol=1e-3
    )
    with pytest.raises(UserError, match="sox effect 'silence 1'"):
        module.apply_effects_file(str(tmp_path / "a.wav"), [["silence", "1"]])


def test_what_s3prl_says_stays_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with bridge.hushed(stderr=True):
        print("chatter")
        print("more", file=sys.stderr)
    with bridge.hushed():
        print("note", file=sys.stderr)
    assert capsys.readouterr() == ("", "note\n")
